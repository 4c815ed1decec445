"""Nodes with one ID: a data directory was copied, or a whole machine was. The younger of two refuses to serve.

    alone --the ID comes from another address, or is named there--> asks there
          <--no answer, or the answer is its own---------------------   |
                                       the answer of an older run: aside, until the daemon ends
                                       the answer of a younger run: serves on, and says so

Both ask each other (PING) and compare when their runs began, so both come to the same result. Two runs that began at
once differ by a random number. Other nodes notice an ID that answers at one address and writes from another.

Contract: what a message says counts only in a matched answer. A node that is aside has left the cluster, and answers
only those that ask about this. It does not come back by itself: its records may be as old as the copy.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple, Self

from kdht.node.context import NodeContext, leave_to_table
from kdht.node.events import HasTwin, SeesTwins, YieldsToTwin
from kdht.node.messages import Reply
from kdht.node.notice import Notices
from kdht.node.readiness import OWN_ID
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Address, Contact

REMEMBERED_S = 600.0
"""How long two nodes with one ID are told of after they were last seen."""
MAX_PAIRS = 64
AGAIN_S = 1.0
"""Between two questions to the own ID's other address."""

SAME_S = 0.001
"""A question and the message that caused it may be so far apart, by rounding."""

_RUN = struct.Struct(">QQ")


class Run(NamedTuple):
    """One run of a node, as in the body of a PING between nodes with one ID. The older one is the lesser."""

    began_ms: int
    """Unix time."""
    nonce: int

    def pack(self) -> bytes:
        return _RUN.pack(*self)

    @classmethod
    def untrusted(cls, body: bytes) -> Self:
        """An earlier version says nothing of its age. It counts as old, so this node gives way to it."""
        return cls(*_RUN.unpack_from(body)) if len(body) >= _RUN.size else cls(0, 0)


CONCEDES = Run((1 << 64) - 1, (1 << 64) - 1)
"""What a node says that gave way: it is younger than any."""


class Pair(NamedTuple):
    """Two addresses with one ID."""

    id: bytes
    addresses: tuple[Address, Address]


class Twins:
    """What one node knows of nodes with one ID. `withdraw(now)` takes it out of the cluster."""

    def __init__(
        self, context: NodeContext, notices: Notices, withdraw: Callable[[SteadyTime], None]
    ) -> None:
        self.aside = False
        """This node gave way to an older one with its ID."""
        self._context = context
        self._notices = notices
        self._withdraw = withdraw
        self._run: Run | None = None
        self._asked: dict[Address, float] = {}
        """When the own ID's other addresses may be asked again."""
        self._heard: dict[bytes, tuple[Contact, float]] = {}
        """Others' IDs that came from another address than the known one, and when."""
        self._pairs: dict[Pair, float] = {}
        """Until when they are told of."""

    def pairs(self, now: SteadyTime) -> list[Pair]:
        """The nodes with one ID that were seen not long ago. The pair that this node gave way to stays."""
        self._pairs = {pair: until for pair, until in self._pairs.items() if until > now}
        return list(self._pairs)

    def run(self, now: SteadyTime) -> Run:
        """This node's own. It begins with the first call."""
        if self.aside:
            return CONCEDES
        if self._run is None:
            began = now + self._context.unix_offset
            self._run = Run(int(began * 1000), self._context.rng.getrandbits(64))
        return self._run

    # The own ID

    def own_id_at(self, address: Address, now: SteadyTime) -> None:
        """The own ID was named there, or a message with it came from there."""
        context = self._context
        foreign = address not in context.own and context.source(address) is not None and address.port != 0
        if not foreign or self.aside or context.leaving or self._asked.get(address, now) > now:
            return
        if len(self._asked) >= MAX_PAIRS:
            self._asked.clear()
        self._asked[address] = now + AGAIN_S
        context.ping(address, context.id, self._answered, now, body=self.run(now).pack())

    def _answered(self, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        if reply is None or self.aside:
            return
        own, other = self.run(now), Run.untrusted(reply.body)
        if other == own:
            return  # a translated address of this node
        pair = Pair(self._context.id, (self._context.contact.address, rpc.address))
        if other < own:
            self.aside = True
            self._pairs[pair] = float("inf")
            self._context.readiness.require(OWN_ID)
            self._context.events.append(YieldsToTwin(rpc.address))
            self._withdraw(now)
        else:
            self._tell(pair, HasTwin(rpc.address), now)

    # Others' IDs

    def heard(self, contact: Contact, known: Contact, now: SteadyTime) -> None:
        """A message came from another address than the known one of its ID. An address of the other IP version is the same node's."""
        pair = Pair(contact.id, (known.address, contact.address))
        told = self._pairs.get(pair, now) - REMEMBERED_S
        if (
            contact.address.is_ipv4 != known.address.is_ipv4
            or contact.id in self._heard
            or now < told + AGAIN_S
        ):
            return
        self._heard[contact.id] = (contact, now)
        if len(self._heard) > MAX_PAIRS:
            del self._heard[next(iter(self._heard))]
        self._context.ping(known.address, known.id, leave_to_table, now)

    def confirmed(self, contact: Contact, asked: float, now: SteadyTime) -> None:
        """A contact answered a question that was sent then: whoever else has its ID is another node."""
        other, since = self._heard.get(contact.id, (contact, 0.0))
        if other == contact:
            self._heard.pop(contact.id, None)  # the other address was the new one
        elif asked > since - SAME_S:
            del self._heard[contact.id]
            self._tell(
                Pair(contact.id, (contact.address, other.address)), SeesTwins(contact, other.address), now
            )
            # Else two nodes that never meet would both serve.
            self._notices.meet(contact.id, contact, other, now)

    def _tell(self, pair: Pair, event: HasTwin | SeesTwins, now: SteadyTime) -> None:
        if self._pairs.get(pair, now) <= now:
            self._context.events.append(event)
        if len(self._pairs) < MAX_PAIRS or pair in self._pairs:
            self._pairs[pair] = now + REMEMBERED_S
