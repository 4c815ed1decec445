"""A member that lies: it has the cluster's secret, and says what a test tells it to."""

from collections.abc import Callable

from replica_cluster import Cluster, Member, key_of

from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.memory import MemoryTransport
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas.calls import answer, seal_as_sender
from kdht.wire import OFFSET, pack_request
from kdht.wire._shared import Flag, Op, Status

Say = Callable[[Op], tuple[Status, bytes] | None]
"""The answer to a request of this kind; None: silence."""


class Liar:
    """Takes the place of `member`, whose address and secret it uses."""

    def __init__(self, cluster: Cluster, member: Member, say: Say = lambda op: None) -> None:
        self.say = say
        self.own = member.contact.address
        self._member = member
        member.transport.stop()
        self._transport = MemoryTransport(cluster.network, member.core, [self.own])
        self._transport.start(Handlers.without_records(self._receive))
        self._requests = 1 << 32

    def stop(self) -> None:
        """Silence."""
        self._transport.stop()

    def send(self, to: Member, op: Op, name: str, body: bytes) -> None:
        """A sealed request."""
        self._requests += 1
        message = pack_request(op, key_of(name), self._requests, body, hops=CONTROL_HOPS)
        seal_as_sender(self._member.core, message, self.own, self._member.now)
        self._transport.send([Outgoing(bytes(message), to.contact.address, self.own)])

    def _receive(self, batch: list[Datagram]) -> None:
        for asked in batch:
            if asked.data[OFFSET["flags"]] & Flag.REPLY:
                continue
            said = self.say(Op(asked.data[OFFSET["op"]]))
            if said is not None:
                self._transport.send([answer(self._member.core, asked, *said, self._member.now)])
