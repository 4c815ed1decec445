"""The socket datapath: one thread on ordinary UDP sockets. It needs no root and is always there.

Contract: `start` binds every address, or none and raises; `stop` ends the thread, then
closes the sockets, so that the addresses are free when it returns. Both may be repeated.
The thread gives verdicts in batches (see _socket.pyx) and hands up what is local. The core
must stay open until `stop` has returned, and nobody else may use its lane. A handler that
raises loses its batch, not the thread. No handler may call `stop`.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from threading import Lock, Thread

from kdht._routing import LANES, Core
from kdht.datapath.base import Datagram, Handlers, Outgoing, Reader
from kdht.datapath.host.local_addresses import allow_absent
from kdht.datapath.rates import NO_LIMITS, ClientRates
from kdht.datapath.socket import _udp
from kdht.datapath.socket._direct import Direct
from kdht.datapath.socket._socket import MAX_ENDPOINTS, Engine
from kdht.datapath.socket.outside import mark_outside
from kdht.datapath.upkeep import started
from kdht.errors import DatapathError
from kdht.storage._cache import RecordCache
from kdht.storage._hot import ASKS
from kdht.times import UnixTime
from kdht.wire import Address

# A second of 8,000 requests a second. What waits for longer is dropped as too old anyway.
RECEIVE_BUFFER = 8 << 20
"""Bytes asked for each socket; without CAP_NET_ADMIN the kernel gives at most net.core.rmem_max."""

log = logging.getLogger("kdht.socket")

_BIND_ERRORS = {
    errno.EADDRINUSE: "UDP port {port} is in use on {host}: stop what uses it (`ss -lunp 'sport = :{port}'`"
    " names it) or configure another port",
    errno.EADDRNOTAVAIL: "{host} is not an address of this machine: `ip address` lists those that are",
    errno.EACCES: "no permission to bind UDP port {port} on {host}: ports under 1024 need CAP_NET_BIND_SERVICE,"
    " so use a higher port",
    errno.EPERM: "no permission to bind UDP port {port} on {host}: a security policy of this machine forbids it",
    errno.EAFNOSUPPORT: "this kernel has no IPv6, so {host} cannot be bound: leave out the IPv6 addresses",
    errno.EINVAL: "{host} cannot be bound: link-local addresses need an interface, use a global one",
}
"""What a user can do about a failed bind; everything else is told as the system says it."""


class SocketTransport:
    """A Transport on UDP sockets.

    `addresses`: what to bind, 1 to MAX_ENDPOINTS; IPv4 or IPv6, an any-address too, port 0
    for any free one. `own`: further addresses of this node, 16 bytes each: nobody outside sends from them. `lane`: the core's lane for this thread. `receive_buffer`: bytes for each socket. `freebind`: bind addresses too that this host does not have yet.
    The thread answers a GET for a record in `cache` itself, and one that `Handlers.read` has a record for.
    """

    name = "socket"

    def __init__(
        self,
        core: Core,
        addresses: Sequence[Address],
        *,
        own: Sequence[bytes] = (),
        lane: int = 1,
        receive_buffer: int = RECEIVE_BUFFER,
        freebind: bool = False,
        cache: RecordCache | None = None,
        rates: ClientRates = NO_LIMITS,
    ) -> None:
        if not 1 <= len(addresses) <= MAX_ENDPOINTS:
            raise DatapathError(f"a node binds 1 to {MAX_ENDPOINTS} addresses, not {len(addresses)}")
        if not 0 <= lane < LANES:
            raise DatapathError(f"a lane is a number from 0 to {LANES - 1}, not {lane}")
        self.addresses = tuple(addresses)
        """While it runs: what is bound, with the real ports."""
        self._wanted = self.addresses
        self._own = [*{*own, *(address.ip for address in self.addresses)}]
        self._core = core
        self._cache = cache
        self._rates = rates
        self._checks_reads = False
        self._lane = lane
        self._receive_buffer = receive_buffer
        self._freebind = freebind
        self._got_buffer = 0
        self._sending = Lock()
        self._waking = Lock()
        """Held by who uses the engine's eventfd, which is not to be closed meanwhile."""
        self._sockets: list[socket.socket] = []
        self._engine: Engine | None = None
        self._thread: Thread | None = None
        self._wake_fd = -1
        self._why = "not started"
        self._guard: _Guard | None = None
        self._last: dict[str, object] = {}

    def start(self, handlers: Handlers) -> None:
        """Bind and begin. Raises DatapathError, which says what to do; then nothing is bound."""
        if self._thread:
            return
        with ExitStack() as undo:
            sockets = [undo.enter_context(self._bound(address)) for address in self._wanted]
            wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
            undo.callback(os.close, wake_fd)
            bound = tuple(_address_of(sock) for sock in sockets)
            pairs = [(sock.fileno(), address) for sock, address in zip(sockets, bound, strict=True)]
            # What the kernel gave, for the status: too small a buffer is the usual cause of lost requests.
            self._got_buffer = min(s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for s in sockets)
            engine = Engine(self._core, self._lane, pairs, wake_fd, self._cache, self._rates.prices())
            engine.checks_reads = self._checks_reads
            guard = _Guard(handlers)
            with self._sending:  # the first datagram's answer waits until all is in place
                self._why = ""
                self._engine = engine  # for `call_in`, which does not wait
                self._guard = guard
                undo.callback(setattr, self, "_engine", None)
                undo.callback(setattr, self, "_why", "not started")
                thread = started("kdht-socket", lambda: self._run(engine, guard))
                self._sockets, self._wake_fd, self.addresses = sockets, wake_fd, bound
                self._thread = thread
            undo.pop_all()

    def stop(self) -> None:
        """End the thread and close the sockets. What waits in their buffers is lost."""
        if self._thread is None:
            return
        assert self._engine is not None
        self._engine.end()
        # Before the sockets are closed: their numbers may be given to other files.
        self._thread.join()
        with self._sending:
            # The counts outlive the engine, so that a last status can show them.
            self._last = self._measure()
            self._engine = self._thread = None
            for sock in self._sockets:
                sock.close()
            self._sockets = []
        with self._waking:
            os.close(self._wake_fd)
        self._why = self._why or "stopped"

    def send(self, batch: Iterable[Outgoing]) -> int:
        """Send all; the number sent. While stopped, none. Raises ValueError for a malformed address.

        A full send buffer may hold this up for 50 ms; then the rest is counted and dropped.
        """
        items = batch if isinstance(batch, list) else list(batch)
        engine = self._engine
        # The thread itself has a way of its own, and its engine lives: it does not wait for the writer, whose answers leave
        # at the same time.
        if engine is not None and engine.is_here():
            return engine.send(items)
        with self._sending:
            return self._engine.send(items) if self._engine else 0

    def check_reads(self, wanted: bool) -> None:
        """From now on ask `Handlers.may_read` before a GET is answered here, or ask no more. Thread-safe.

        Once it returns, no further GET is answered unasked; those that were received before may be.
        """
        with self._sending:
            self._checks_reads = wanted
            if self._cache is not None and self._cache.hot is not None:
                self._cache.hot.forbid(ASKS, wanted)
            if self._engine is not None:
                self._engine.checks_reads = wanted

    def call_in(self, seconds: float) -> None:
        """Have `Handlers.time` called in so many seconds, unless it is due earlier.

        It is called at the start too. So alarms that belong to messages need no thread of their own. Thread-safe;
        no-op while stopped.
        """
        with self._waking:
            if self._engine is not None:
                self._engine.call_in(seconds)

    def status(self) -> Mapping[str, object]:
        """State, addresses, and what was counted since the last start."""
        with self._sending:
            measured = self._measure() if self._engine else self._last
        return {
            "state": "down" if self._why else "up",
            "why": self._why,
            "addresses": [str(address) for address in self.addresses],
            "raised": self._guard.raised if self._guard else 0,
            **measured,
        }

    def _bound(self, address: Address) -> socket.socket:
        """A prepared socket bound to `address`; raises DatapathError."""
        family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
        with ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                _udp.prepare(sock.fileno(), address.is_ipv4, self._receive_buffer)
                mark_outside(sock, self._own)
                if self._freebind:
                    allow_absent(sock)
                sock.bind((address.host, address.port))
            except OSError as error:
                raise DatapathError(_explain(error, address)) from error
            undo.pop_all()
        return sock

    def _measure(self) -> dict[str, object]:
        assert self._engine is not None
        # Each drop is counted somewhere: these are the kernel's, from full receive buffers.
        drops = sum(_udp.kernel_drops(sock.fileno()) for sock in self._sockets if sock.fileno() >= 0)
        return {**self._engine.counters(), "kernel_drops": drops, "receive_buffer": self._got_buffer}

    def _run(self, engine: Engine, guard: "_Guard") -> None:
        """The thread."""
        try:
            engine.run(
                guard.receive,
                guard.unreachable,
                guard.away,
                guard.reader,
                guard.time,
                guard.may_read,
                guard.direct,
            )
        except Exception as error:
            self._why = f"the thread ended: {error}"
            log.exception("the socket datapath's thread ended")


class _Guard:
    """Calls the handlers. One that raises is logged and counted in `raised`, for the thread must go on."""

    def __init__(self, handlers: Handlers) -> None:
        self.raised = 0
        self._handlers = handlers

    @property
    def reader(self) -> Reader | None:
        """None: every read goes to `receive`."""
        return self._read if self._handlers.read is not None else None

    @property
    def direct(self) -> Direct | None:
        """It does not raise."""
        return self._handlers.direct

    def receive(self, batch: list[Datagram]) -> None:
        try:
            self._handlers.receive(batch)
        except Exception:
            self._failed("%s raised: what it was given is lost", self._handlers.receive)

    def unreachable(self, targets: list[tuple[Address, int | None]]) -> None:
        for target, request_id in targets:
            try:
                self._handlers.unreachable(target, request_id)
            except Exception:
                self._failed("%s raised: what it was given is lost", self._handlers.unreachable)

    def _read(
        self, keys: list[bytes], rooms: list[int], now: UnixTime
    ) -> Sequence[tuple[int, int, int, bytes] | None]:
        """Requests whose read raises go to `receive`."""
        assert self._handlers.read is not None
        try:
            return self._handlers.read(keys, rooms, now)
        except Exception:
            self._failed("%s raised", self._handlers.read)
            # Each of them takes the ordinary path.
            return [None] * len(keys)

    def may_read(self, data: bytes, now: UnixTime) -> bool:
        """A request whose check raises goes to `receive`."""
        try:
            return self._handlers.may_read(data, now)
        except Exception:
            self._failed("%s raised", self._handlers.may_read)
            return False

    def time(self) -> float | None:
        try:
            return self._handlers.time()
        except Exception:
            self._failed("%s raised", self._handlers.time)
            return None

    def away(self) -> None:
        try:
            self._handlers.away()
        except Exception:
            self._failed("%s raised", self._handlers.away)

    def _failed(self, text: str, handler: Callable[..., object]) -> None:
        self.raised += 1
        log.exception(text, handler)


def _explain(error: OSError, address: Address) -> str:
    text = _BIND_ERRORS.get(error.errno or 0, f"{address} cannot be bound: {error.strerror}")
    return text.format(host=address.host, port=address.port)


def _address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address.of(host, port)
