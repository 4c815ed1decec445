"""The crowd around a few live members. Its nodes answer truthfully, and ask nothing themselves.

So the cost of one node in a large overlay is simulated without the others' upkeep. On average a node asks as often
as it is asked, because all run the same protocol. A crowd node's store always equals the asking node's.
"""

from bisect import bisect_left
from collections.abc import Sequence

from kdht.datapath.memory import MemoryNetwork
from kdht.lab.virtual.member import KEY
from kdht.node.messages import CONTROL_HOPS
from kdht.node.repair import bodies
from kdht.node.repair.bodies import Says
from kdht.wire import Address, Contact, Message, pack_contacts, parse, seal
from kdht.wire._shared import ID_BITS, ID_LEN, Flag, K, Op

AGREED = Says.CAUGHT_UP | Says.SEES_YOU | Says.KEEPS
"""The crowd's answer for every range."""


class Crowd:
    """An endpoint at the addresses of all of them. They know of the `live` ones, too."""

    def __init__(self, network: MemoryNetwork, contacts: Sequence[Contact], live: Sequence[Contact]) -> None:
        self.contacts = sorted([*contacts, *live])
        self._network = network
        self._numbers = [int.from_bytes(contact.id, "big") for contact in self.contacts]
        self._ids = {contact.address: contact.id for contact in contacts}
        for address in self._ids:
            network.join(address, self)

    def closest(self, target: bytes, count: int) -> list[Contact]:
        """By XOR distance, the nearest first: the members of the smallest subtree that has so many."""
        number = int.from_bytes(target, "big")
        low, high, bit = 0, len(self._numbers), ID_BITS - 1
        while bit >= 0:
            middle = bisect_left(self._numbers, (number >> bit | 1) << bit, low, high)
            inner = (middle, high) if number >> bit & 1 else (low, middle)
            if inner[1] - inner[0] < count:
                break
            (low, high), bit = inner, bit - 1
        near = sorted(range(low, high), key=lambda index: self._numbers[index] ^ number)
        return [self.contacts[index] for index in near[:count]]

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        """Answer a request; replies and notices need none."""
        asked = parse(data)
        if asked.flags & Flag.REPLY or asked.op not in (Op.PING, Op.FIND_NODE, Op.DIGEST):
            return
        reply = Message(
            op=asked.op,
            key=asked.key,
            request_id=asked.request_id,
            flags=Flag.REPLY,
            hops=CONTROL_HOPS,
            attempt=asked.attempt,
            body=self._ids[target] + self._body(asked),
            client=target,
        ).pack()
        seal(reply, KEY, int(self._network.now))
        self._network.carry(bytes(reply), target, source)

    def _body(self, asked: Message) -> bytes:
        if asked.op is Op.DIGEST:
            replicas, ranges = bodies.untrusted_ranges(asked.body[ID_LEN:])
            return bodies.pack_reports(replicas, [report._replace(says=AGREED) for _, report in ranges])
        return pack_contacts(self.closest(asked.key, K)) if asked.op is Op.FIND_NODE else b""
