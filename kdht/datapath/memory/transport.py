"""The datapath of a node on a MemoryNetwork: it makes the same verdict per datagram as the others, from the same core.

Contract: as network.py. Messages really go hop by hop.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing, Receiver
from kdht.datapath.memory.network import MemoryNetwork
from kdht.datapath.socket._datagrams import offer
from kdht.errors import DatapathError
from kdht.times import SteadyTime
from kdht.wire import NO_IP, OFFSET, Address
from kdht.wire._shared import Flag, Op, Reason, Status, Verdict

BATCH = 32
"""Datagrams that a transport takes at once, as the socket's loop does."""
AWAY = 0.5
TOO_OLD = 1.0
"""Seconds, as in `_socket.pyx`: who was away so long hears of it; a request that waited so long is dropped."""
MAX_WAITING = 4096
"""Datagrams in the buffer of a node that is paused."""
TICK = 0.005
"""The least seconds until an alarm, as in the daemon."""

_AGES = frozenset(
    {
        Op.PUT,
        Op.DELETE,
        Op.ANNOUNCE,
        Op.WITHDRAW,
        Op.PROMISE,
        Op.GET,
        Op.QUORUM_GET,
        Op.WATCH,
        Op.MEMBERS,
        Op.FETCH,
    }
)
_SENT_ON = frozenset({Verdict.FORWARD, Verdict.RELAY})


class MemoryTransport:
    """One node's place on a MemoryNetwork. `stop` loses what is still on its way to it.

    `skew`: how many seconds the node's clock is ahead of the network's. `call_at` has alarms called back; without it,
    the network does.
    `pause`: the process is stopped, so what arrives waits in the socket; `resume` takes it, in batches, and drops what is
    too old.
    """

    name = "memory"

    def __init__(
        self,
        network: MemoryNetwork,
        core: Core,
        addresses: Sequence[Address],
        *,
        lane: int = 0,
        skew: float = 0.0,
        call_at: Callable[..., None] | None = None,
    ) -> None:
        self.addresses = tuple(addresses)
        self._network = network
        self._core = core
        self._lane = lane
        self._skew = skew
        self._call_at = call_at or network.call_at
        self._next_alarm: float | None = None
        self._paused_at = SteadyTime(0.0)
        self._running = False
        self._waiting: list[_Arrival] | None = None
        self._received = self._sent = 0

    def start(self, handlers: Handlers) -> None:
        """Take the addresses. Raises DatapathError if one is taken; then none is."""
        if self._running:
            return
        self._handlers = handlers
        self._running = True
        try:
            for address in self.addresses:
                self._network.join(address, self)
        except DatapathError:
            self.stop()
            raise

    def stop(self) -> None:
        for address in self.addresses if self._running else ():
            self._network.leave(address, self)
        self._running = False

    def status(self) -> Mapping[str, object]:
        return {
            "state": "up" if self._running else "down",
            "why": "" if self._running else "not started",
            "addresses": [str(address) for address in self.addresses],
            "received": self._received,
            "sent": self._sent,
        }

    def send(self, batch: Iterable[Outgoing]) -> int:
        """Put all on their way; nothing is sent while stopped."""
        before = self._sent
        for data, target, source in batch if self._running else ():
            self._send(bytes(data), source or self._usual(target), target)
        return self._sent - before

    def check_reads(self, wanted: bool) -> None:
        """No-op: every GET goes to `Handlers.receive`."""

    def call_in(self, seconds: float) -> None:
        """As Transport.call_in."""
        when = self._network.now + max(seconds, TICK)
        if self._running and (self._next_alarm is None or when < self._next_alarm):
            self._next_alarm = when
            self._call_at(when, self._ring, when)

    def _ring(self, when: float) -> None:
        if when != self._next_alarm:
            return  # an earlier one came in its place
        self._next_alarm = None
        if self._running:
            seconds = self._handlers.time()
            if seconds is not None:
                self.call_in(seconds)

    def pause(self) -> None:
        """Take nothing, and lose nothing that fits the socket's buffer."""
        if self._waiting is None:
            self._waiting = []
            self._paused_at = self._network.now

    def resume(self) -> None:
        """Take what waited."""
        waiting, self._waiting = self._waiting or [], None
        if self._network.now - self._paused_at >= AWAY:
            self._handlers.away()
        for start in range(0, len(waiting), BATCH):
            taken = [self._take(*each) for each in waiting[start : start + BATCH]]
            local = [datagram for datagram in taken if datagram is not None]
            if local:
                self._receive(local)

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        """The verdict on one datagram, and what follows from it: an unconfigured node loses it."""
        if self._waiting is not None:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(_Arrival(data, source, target, self._network.now))
            return
        datagram = self._take(data, source, target, self._network.now)
        if datagram is not None:
            self._receive([datagram])

    def _receive(self, batch: list[Datagram]) -> None:
        """As the socket's loop does with a batch."""
        direct = self._handlers.direct
        left = batch if direct is None else offer(direct, batch)
        if left:
            self._handlers.receive(left)

    def _take(self, data: bytes, source: Address, target: Address, arrived: SteadyTime) -> Datagram | None:
        """What is this node's own; the rest is sent on, or dropped."""
        self._received += 1
        message = bytearray(data)
        now = int(self._network.now + self._skew)
        # Here nobody can forge a source, so an own address is this host's.
        outcome = self._core.decide_message(message, source, target, now, self._lane, inside=True)
        if outcome.reason is Reason.NOT_READY:
            return None
        if outcome.verdict is not Verdict.RELAY and self._is_late(data, arrived):
            return None
        if outcome.reason is Reason.NEEDS_COOKIE:
            self._refuse(Datagram(data, source, target, outcome.reason, 0), now)
            return None
        if outcome.verdict is Verdict.LOCAL:
            return Datagram(data, source, target, outcome.reason, outcome.max_reply)
        if outcome.verdict in _SENT_ON and outcome.target is not None:
            chosen = outcome.source
            usual = chosen is None or chosen.ip == NO_IP
            self._send(bytes(message), self._usual(outcome.target) if usual else chosen, outcome.target)
        return None

    def _refuse(self, request: Datagram, now: int) -> None:
        """Send the cookie that the request lacks."""
        data, target, source = self._core.reply(request, Status.COOKIE_NEEDED, b"", now)
        self._send(data, source or self._usual(target), target)

    def _is_late(self, data: bytes, arrived: SteadyTime) -> bool:
        if self._network.now - arrived <= TOO_OLD or data[OFFSET["flags"]] & Flag.REPLY:
            return False
        return data[OFFSET["op"]] in _AGES

    def _send(self, data: bytes, source: Address | None, target: Address) -> None:
        if source is not None:
            self._sent += 1
            self._network.carry(data, source, target)

    def _usual(self, target: Address) -> Address | None:
        """The first own address of the target's family."""
        return next((own for own in self.addresses if own.is_ipv4 == target.is_ipv4), None)


class _Arrival(NamedTuple):
    """What waits in the socket of a paused node, and since when."""

    data: bytes
    source: Address
    target: Address
    arrived: SteadyTime


def attach(
    network: MemoryNetwork,
    core: Core,
    address: Address,
    receiver: Receiver,
    *,
    also: Sequence[Address] = (),
    lane: int = 0,
) -> MemoryTransport:
    """A started transport at `address` (and `also`), for a node that keeps no records."""
    transport = MemoryTransport(network, core, (address, *also), lane=lane)
    transport.start(Handlers.without_records(receiver))
    return transport
