"""REFLECT: helps another node to check its fast path.

    checker, port P                        reflector
        |  REFLECT, from port P                |
        |------------------------------------->|
        |  TRACE for the reflector's own ID    |     to the checker's listening address: its datapath has to
        |<-------------------------------------|     forward it, as any request for this key
        |  REFLECT, REPLY, to port P           |
        |<-------------------------------------|     it was sent
        |  TRACE, forwarded                    |
        |=====================================>|
        |  TRACE, REPLY, to port P             |     the reflector is the TRACE's entry node, the checker
        |<-------------------------------------|     its client: so the answer comes straight

Contract: no clock and no I/O but `send`. Thread-safe, for one thread at a time. Keeps no state of a REFLECT. No more bytes
leave for an address than it sent, even if somebody repeats a REFLECT.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.node.messages import CONTROL_HOPS, untrusted_id
from kdht.times import UnixTime
from kdht.wire import Address, Message, parse
from kdht.wire._shared import HEADER_LEN, HOP_LIMIT, ID_LEN, MAX_BODY, Flag, Op

ANSWER_BYTES = HEADER_LEN + ID_LEN
"""Of the answer. The REFLECT is longer than the TRACE by so many bytes."""
MOST_A_SECOND = 100
"""REFLECTs that are answered. A node sends about two a second, to its neighbours in turn."""


class Reflector:
    """Answers for the node with this ID."""

    def __init__(self, core: Core, node_id: bytes, send: Callable[[list[Outgoing]], object]) -> None:
        self.counters: Counter[str] = Counter(reflected=0, reflect_refused=0)
        """`reflected` and `reflect_refused`."""
        self._core = core
        self._id = node_id
        self._send = send
        self._second = 0
        self._left = 0
        """Answers that may still be given in this second."""

    def receive(self, batch: Sequence[Datagram], now: UnixTime) -> None:
        """Control messages REFLECT, whose tags were checked."""
        outgoing: list[Outgoing] = []
        for datagram in batch:
            try:
                outgoing += self._untrusted(datagram, now)
            except BadPacket:
                self.counters["reflect_refused"] += 1
        if outgoing:
            self._send(outgoing)

    def _untrusted(self, datagram: Datagram, now: UnixTime) -> list[Outgoing]:
        """Raises BadPacket."""
        asked = parse(datagram.data)
        untrusted_id(asked)
        if asked.is_reply or asked.key != self._id:
            raise BadPacket("BAD_FLAGS", "a REFLECT for another node")
        # Only the node itself is to be made forward something.
        if asked.client.ip != datagram.source.ip or not asked.client.port:
            raise BadPacket("BAD_ADDRESS", str(asked.client))
        padding = len(asked.body) - ANSWER_BYTES
        if padding < 0:
            raise BadPacket("BAD_LENGTH", "two datagrams for a shorter one")
        # By whole seconds, because the time of day may be set back.
        if int(now) != self._second:
            self._second, self._left = int(now), MOST_A_SECOND
        if not self._left:
            raise BadPacket("RATE_LIMITED")
        self._left -= 1
        self.counters["reflected"] += 1
        trace = Message(
            op=Op.TRACE,
            key=self._id,
            request_id=asked.request_id,
            hops=HOP_LIMIT,
            client=datagram.source,
            entry=datagram.target,
            max_reply=MAX_BODY,
            body=bytes(padding),
        )
        answer = Message(
            op=Op.REFLECT,
            flags=Flag.REPLY,
            key=self._id,
            request_id=asked.request_id,
            hops=CONTROL_HOPS,
            client=datagram.target,
            body=self._id,
        )
        targets = ((trace, asked.client), (answer, datagram.source))
        return [self._sealed(message, target, datagram, now) for message, target in targets]

    def _sealed(self, message: Message, target: Address, datagram: Datagram, now: UnixTime) -> Outgoing:
        data = message.pack()
        self._core.seal(data, int(now))
        return Outgoing(bytes(data), target, datagram.target)
