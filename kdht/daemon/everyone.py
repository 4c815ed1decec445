"""All nodes of the cluster, found from this one.

A node knows all others as long as none of its buckets is full. Beyond that it looks them up. If a look-up finds as
many nodes as it may, all in one part of the ID space, each half of that part is looked up too.
"""

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from kdht.daemon.wiring import Parts
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
        return number_of(id) >> (ID_BITS - self.bits) == self.number

    def anywhere(self) -> bytes:
        """A random ID in it."""
        low = ID_BITS - self.bits
        return (self.number << low | secrets.randbits(low)).to_bytes(ID_LEN, "big")


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
        index = ID_BITS - (number_of(own.id) ^ number_of(contact.id)).bit_length()
        counted[index] = counted.get(index, 0) + 1
    number = number_of(own.id)
    return [
        Part(number >> (ID_BITS - 1 - index) ^ 1, index + 1)
        for index, count in sorted(counted.items(), reverse=True)
        if count >= k
    ]


def number_of(id: bytes) -> int:
    """An ID as a number: the XOR of two is their distance."""
    return int.from_bytes(id, "big")
