"""A real node in network namespaces of its own, and its observable behaviour at each packet.

    wire eth0 --- bridge --- eth0 node: kernel, datapath, sockets

A default route, and a neighbour that is always known, lead all that the node sends to the wire.
Packets go in one by one, each followed by a TRACE to the node. When the TRACE is received, the
packet before it has been handled, and the counters' difference is its reason. All is removed at
the end.
"""

import os
import secrets
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pyroute2 import IPRoute

from kdht._routing import Core
from kdht.datapath.base import Datagram as Received
from kdht.datapath.base import FastPath, Handlers
from kdht.datapath.nfqueue.datapath import QUEUE_LANES
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import ConfigError, LabError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.replay._capture import Batch
from kdht.replay._engine import Results
from kdht.replay.base import NANOSECONDS, Run
from kdht.replay.packets import packet, take_apart
from kdht.replay.redate import completed, redated
from kdht.replay.seen import Seen, is_ordinary
from kdht.replay.tables import ReplayTable
from kdht.wire import Address, Message
from kdht.wire._shared import MAGIC, VERDICT_OF, Op, Reason, Verdict

SOCKET_LANE = 1
GATEWAYS = {4: "169.254.53.48", 6: "fe80::53:48"}
PROBES = {True: Address.of("198.18.53.48", 5000), False: Address.of("2001:db8:53:48::1", 5000)}
"""The sender of the TRACEs after the packets, by whether it is IPv4."""
# Seconds. On a loaded machine a queue's worker may wait for its turn.
ARRIVAL_TIMEOUT = 5.0
ETH_P_ALL = 3
MTU = 1500
SO_RCVBUFFORCE = 33
_GOES_ON = (Verdict.FORWARD, Verdict.RELAY)
_MAGIC = MAGIC.to_bytes(4, "big")
_EDGE = 0.1
"""Nothing is sent in these seconds around a full second, because the datapaths' clocks are no more exact."""


class SentMessage(NamedTuple):
    """A kdht message from the node."""

    message: bytes
    source: Address
    target: Address


class Live:
    """A live implementation; `kind` is the datapath: socket, nfqueue or ebpf."""

    def __init__(self, table: ReplayTable, kind: str) -> None:
        """Raises ConfigError if no interface can have the node's addresses."""
        for ip in table.own:
            if not is_ordinary(Address(ip, 0)):
                raise ConfigError(f"a live node cannot have the address {Address(ip, 0).host}")
        self.name = f"live-{kind}"
        self._table = table
        self._kind = kind
        self._stack = ExitStack()
        self._judge = table.core()
        self._core = table.core()
        self._received: list[Received] = []
        self._arrived = threading.Condition()
        self._number = secrets.randbits(48) << 16

    # --- The laboratory --------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            lab = stack.enter_context(Lab(f"kr-{self._kind}-{os.getpid()}"))
            self._node, self._wire = lab.host("node"), lab.host("wire")
            self._address_node()
            if self._kind == "ebpf":
                lab.let_xdp_send()
            self._raw = stack.enter_context(self._open_raw())
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdht-replay-")))
            self._start(state, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _address_node(self) -> None:
        """Own addresses alone in their networks, and everything else by way of the wire."""
        mac = _mac(self._wire)
        for ip in self._table.own:
            address = Address(ip, 0)
            self._node.add_address("eth0", f"{address.host}/{32 if address.is_ipv4 else 128}")
        with self._node.enter(), IPRoute() as ip:
            index = ip.link_lookup(ifname="eth0")[0]
            for family, gateway in ((socket.AF_INET, GATEWAYS[4]), (socket.AF_INET6, GATEWAYS[6])):
                ip.neigh("add", dst=gateway, lladdr=mac, ifindex=index, state="permanent", family=family)
                if any(Address(own, 0).is_ipv4 == (family == socket.AF_INET) for own in self._table.own):
                    ip.route(
                        "add", dst="default", gateway=gateway, oif=index, flags=["onlink"], family=family
                    )

    def _open_raw(self) -> socket.socket:
        with self._wire.enter():
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            raw.bind(("eth0", ETH_P_ALL))
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            raw.setblocking(False)
        self._link = bytes.fromhex((_mac(self._node) + _mac(self._wire)).replace(":", ""))
        return raw

    def _start(self, state: Path, stack: ExitStack) -> None:
        addresses = [Address(ip, self._table.port) for ip in self._table.own]
        transport = SocketTransport(self._core, addresses, lane=SOCKET_LANE)
        datapath = _datapath(self._kind, self._core, addresses, state)
        self._counters = _counter_of(self._kind, self._core, datapath)
        with self._node.enter():
            transport.start(Handlers.without_records(self._receive))
            stack.callback(transport.stop)
            if datapath is not None:
                datapath.start()
                stack.callback(_stopped_in, self._node, datapath)
        for ip in self._table.own:
            self._probe(ip)

    def _receive(self, batch: list[Received]) -> None:
        with self._arrived:
            self._received += batch
            self._arrived.notify_all()

    # --- Packets ------------------------------------------------------------------------------

    def run(self, batch: Batch, now: int | None) -> Run:
        """The observations of each packet. Its times are first moved to the present.

        The results' batch has the packets as sent, with the times of sending.
        """
        sent, times, seen = [], [], []
        for index in range(len(batch)):
            frame = batch.frame(index)
            raw, second, found = self._treated(
                batch.packet(index), frame.nanos // NANOSECONDS if now is None else now
            )
            sent.append(raw)
            times.append(second * NANOSECONDS)
            seen.append(found)
        offsets = [batch.frame(index).offset for index in range(len(batch))]
        results = Results(Batch.of(sent, times, batch.first, offsets))
        for index, found in enumerate(seen):
            _show(results, index, sent[index], found)
        return Run(results, None, seen)

    def _treated(self, raw: bytes, before: int) -> tuple[bytes, int, Seen]:
        """The packet as sent, the second of sending and handling, and the observations."""
        while True:
            wait_until(lambda: _EDGE < time.time() % 1 < 1 - _EDGE, "the middle of a second")
            second = int(time.time())
            sent = completed(redated(self._table, raw, before, second))
            found = self._send(sent)
            if time.time() < second + 1 - _EDGE:
                return sent, second, found

    def _send(self, raw: bytes) -> Seen:
        """Inject one packet and the TRACE behind it, and wait until both were treated."""
        self._drain()
        del self._received[:]
        before = self._counters()
        if len(raw) > MTU:
            return Seen("too large", self._kind)
        if raw:
            self._raw.send(self._frame(raw))
        datagram = take_apart(raw)
        own = datagram is not None and datagram.target.ip in self._table.own
        probe = self._probe(datagram.target.ip if own and datagram else self._table.own[0])
        counted, by_socket = (
            _one(after - old - probe) for after, old in zip(self._counters(), before, strict=True)
        )
        final = counted if by_socket is None else by_socket
        out: list[SentMessage] = []
        if final is not None and VERDICT_OF[final] in _GOES_ON:
            with suppress(LabError):  # then nothing came out, which is a finding too
                out = wait_until(self._drain, "a packet to come out", ARRIVAL_TIMEOUT)
        return self._as_seen(counted, by_socket, out or self._drain())

    def _as_seen(self, counted: Reason | None, by_socket: Reason | None, out: list[SentMessage]) -> Seen:
        if out:
            return Seen("sent on", self._kind, counted, by_socket, *out[0])
        if len(self._received) > 1:
            return Seen("passed up", self._kind, counted, by_socket, bytes(self._received[0].data))
        return Seen("nothing", self._kind, counted, by_socket)

    def _probe(self, own: bytes) -> Counter[Reason]:
        """Send a TRACE to the node and wait for it. Returns each datapath's counter of it."""
        self._number += 1
        target = Address(own, self._table.port)
        message = Message(op=Op.TRACE, key=self._table.self_id, request_id=self._number, hops=1).pack()
        raw = packet(bytes(message), PROBES[target.is_ipv4], target)
        self._raw.send(self._frame(bytes(raw)))
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._is_last(bytes(message)), ARRIVAL_TIMEOUT):
                raise LabError(
                    f"the {self._kind} datapath lost a TRACE to itself within {ARRIVAL_TIMEOUT:g} s"
                )
        return Counter([self._judge.decide_packet(raw, int(time.time())).reason])

    def _is_last(self, message: bytes) -> bool:
        return bool(self._received) and self._received[-1].data == message

    def _frame(self, raw: bytes) -> bytes:
        return self._link + (b"\x86\xdd" if raw[0] >> 4 == 6 else b"\x08\x00") + raw

    def _drain(self) -> list[SentMessage]:
        """The node's kdht messages since the last call."""
        found = []
        # All that came is read.
        with suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._raw.recvfrom(1 << 16)
                datagram = take_apart(frame[14:]) if kind != socket.PACKET_OUTGOING else None
                if datagram and datagram.message[:4] == _MAGIC and datagram.source.ip in self._table.own:
                    found.append(SentMessage(datagram.message, datagram.source, datagram.target))
        return found


def _one(delta: Counter[Reason]) -> Reason | None:
    """The only reason with a raised counter, or None. Other frames do not matter."""
    return next((reason for reason in delta.elements() if reason is not Reason.NOT_OURS), None)


def _show(results: Results, index: int, raw: bytes, seen: Seen) -> None:
    """Into the results, as far as it can be seen."""
    reason = seen.by_socket if seen.reason is None else seen.reason
    if reason is None:
        results.cannot(index, "nothing came out and nobody counted it")
        return
    data = None
    if seen.source is not None and seen.target is not None and VERDICT_OF[reason] in _GOES_ON:
        made = bytes(packet(seen.message, seen.source, seen.target))
        data = made if len(made) == len(raw) else None
    results.put(index, reason, data)


def _mac(host: Host) -> str:
    with host.enter(), IPRoute() as ip:
        return str(ip.get_links(ifname="eth0")[0].get("address"))


def _datapath(kind: str, core: Core, addresses: list[Address], state: Path) -> Any:
    """The datapath above the socket; None for the socket alone. Its pins are under an ID of its own."""
    own: dict[str, Any] = {
        "addresses": tuple(addresses),
        "port": addresses[0].port,
        "interfaces": ("eth0",),
        "runtime_dir": state,
    }
    if kind == "nfqueue":
        from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions

        return NfqueueDatapath(core, NfqueueOptions(**own))
    if kind == "ebpf":
        from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
        from kdht.datapath.publish import Publisher

        return EbpfDatapath(Publisher(core), EbpfOptions(node_id=secrets.token_bytes(20), **own))
    return None


def _stopped_in(node: Host, datapath: FastPath) -> None:
    with node.enter():
        datapath.stop()


def _counter_of(
    kind: str, core: Core, datapath: Any
) -> Callable[[], tuple[Counter[Reason], Counter[Reason]]]:
    """Readers of the verdicts so far: of the datapath above the socket, and of the socket."""
    lanes = {"nfqueue": QUEUE_LANES, "socket": ()}

    def by_lanes(numbers: Iterable[int]) -> Counter[Reason]:
        total: Counter[Reason] = Counter()
        for lane in numbers:
            total.update({Reason[name]: count for name, count in core.counters(lane).items() if count})
        return total

    def read() -> tuple[Counter[Reason], Counter[Reason]]:
        if kind == "ebpf":
            above = Counter({Reason[name]: count for name, count in datapath.counters().items()})
        else:
            above = by_lanes(lanes[kind])
        return above, by_lanes([SOCKET_LANE])

    return read
