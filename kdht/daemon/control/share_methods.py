"""Methods of the control socket for shares: the part of each node, and the move that would make them more even.

A node knows all others as long as none of its buckets is full. Beyond that it looks them up. If a look-up finds as
many nodes as it may, all in one part of the ID space, each half of that part is looked up too.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kdht.daemon.control.running import Running
from kdht.daemon.control.server import Method, Params
from kdht.daemon.wiring import Parts
from kdht.node.place.shares import kept, least_greatest, move_that_helps, owned
from kdht.program.answers import Move, Share, Shares
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, ID_LEN

MAX_LOOKUPS = 64
"""For one answer: enough for some hundred nodes, and a few seconds."""


class Part(NamedTuple):
    """All IDs with the first `bits` bits of `number`."""

    number: int
    bits: int

    def halves(self) -> tuple["Part", "Part"]:
        return Part(self.number << 1, self.bits + 1), Part(self.number << 1 | 1, self.bits + 1)

    def has(self, id: bytes) -> bool:
        return _number(id) >> (ID_BITS - self.bits) == self.number

    def anywhere(self) -> bytes:
        """A random ID in it."""
        low = ID_BITS - self.bits
        return (self.number << low | secrets.randbits(low)).to_bytes(ID_LEN, "big")


class ShareMethods:
    """The methods of one daemon."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def table(self) -> dict[str, Method]:
        return {"shares": Method(self._shares)}

    async def _shares(self, params: Params) -> Shares:
        """Each node's part of all keys, as its owner and as one of its replicas."""
        parts, _ = self._running()
        nodes, complete = await everyone(parts, MAX_LOOKUPS)
        return shares_of(nodes, complete, parts.coordinator.cluster.policy.replicas)


async def everyone(parts: Parts, most: int) -> tuple[list[Contact], bool]:
    """All nodes, including this one, and whether the limit of look-ups was enough to find them all."""
    found = {contact.id: contact for contact in (parts.contact, *parts.driver.contacts())}
    k = parts.driver.bucket_size
    todo = _full_buckets(parts.contact, parts.driver.contacts(), k)
    while todo and most:
        most -= 1
        part = todo.pop()
        closest = await parts.driver.lookup(part.anywhere())
        found |= {contact.id: contact for contact in closest}
        if len(closest) >= k and all(part.has(contact.id) for contact in closest) and part.bits < ID_BITS - 1:
            todo += part.halves()
    return list(found.values()), not todo


def _full_buckets(own: Contact, contacts: Iterable[Contact], k: int) -> list[Part]:
    """Parts of the ID space with perhaps more nodes than the table can hold."""
    counted: dict[int, int] = {}
    for contact in contacts:
        index = ID_BITS - (_number(own.id) ^ _number(contact.id)).bit_length()
        counted[index] = counted.get(index, 0) + 1
    number = _number(own.id)
    return [
        Part(number >> (ID_BITS - 1 - index) ^ 1, index + 1)
        for index, count in sorted(counted.items(), reverse=True)
        if count >= k
    ]


def shares_of(nodes: Iterable[Contact], complete: bool, replicas: int) -> Shares:
    """The shares of all nodes, how even they are, and the node that should move."""
    ordered = sorted(nodes)
    ids = [_number(contact.id) for contact in ordered]
    owners, keepers = owned(ids), kept(ids, replicas)
    return Shares(
        complete=complete,
        replicas=replicas,
        nodes=[
            Share(contact.id.hex(), str(contact.address), owns, keeps)
            for contact, owns, keeps in zip(ordered, owners, keepers, strict=True)
        ],
        greatest_owner=max(owners) * len(ids),
        greatest_keeper=max(keepers) * len(ids) / sum(keepers),
        least_possible=least_greatest(len(ids)),
        move=_move(ordered, ids, owners),
    )


def _move(ordered: Sequence[Contact], ids: Sequence[int], owners: Sequence[float]) -> Move | None:
    found = move_that_helps(ids)
    if found is None:
        return None
    who, beside = found
    return Move(
        str(ordered[who].address), owners[who], str(ordered[beside].address), would_own=owners[beside] / 2
    )


def _number(id: bytes) -> int:
    return int.from_bytes(id, "big")
