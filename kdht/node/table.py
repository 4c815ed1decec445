"""The routing table: 160 k-buckets, and the rules for a place in them.

A contact enters through `answered` alone, after a matched reply to a request of this node. Every change of a bucket is
published as a whole, without demoted contacts. New contacts never displace old ones that answer (Maymounkov and
Mazieres, "Kademlia", 2002, section 2.2). An address has one ID, and an ID has one address.

A bucket holds k contacts. It is *wide*, and holds more, if fewer than r nodes (this one included) are closer than its
own nodes. Then each of its nodes is a replica of some key of this node, and must not be left out. S/Kademlia keeps such
siblings in a separate list (Baumgart and Mies, 2007).

Contract: no I/O, no clock, no messages. Other modules decide whom to ask, and when.
"""

from collections.abc import Callable, Iterator
from enum import Enum

from kdht.node.table_contact import TableContact
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, ROOM

Publish = Callable[[int, list[Contact]], None]
"""Takes a bucket's index and all its contacts."""

Place = tuple[bytes, int]
"""An address as a key: equal to the Address."""

# Two sides of a full bucket with hardly any nodes on one of them know each other all the same.
FEW = 4
"""Fewer nodes than this make no ring of their own."""
_SPACE = 1 << ID_BITS


class Standing(Enum):
    """What the table did with a contact that answered."""

    KNOWN = "known"
    ADDED = "added"
    FULL = "full"
    """It waits in the replacement cache."""
    ELSEWHERE = "elsewhere"
    """Its ID is in the table with another address; it waits in the replacement cache."""


class Bucket:
    """Members and waiting replacements by ID, least recently seen first."""

    __slots__ = ("entries", "replacements")

    def __init__(self) -> None:
        self.entries: dict[bytes, TableContact] = {}
        self.replacements: dict[bytes, Contact] = {}


class Table:
    """The k-buckets around `self_id`."""

    def __init__(
        self, self_id: bytes, publish: Publish, *, k: int, replacements: int, replicas: int = 0
    ) -> None:
        self.self_id = self_id
        self.replicas = replicas
        """Nodes that keep a key."""
        self.warm = False
        """Whether the closest nodes are known. Before that no bucket is wide: any of them might seem so."""
        self._number = int.from_bytes(self_id, "big")
        self._publish = publish
        self._k = k
        self._max_replacements = replacements
        self._buckets: dict[int, Bucket] = {}
        self._by_id: dict[bytes, TableContact] = {}
        # By address too: replies, ICMP errors and time-outs name an address, and a walk over all buckets for
        # each would be slow.
        self._by_place: dict[Place, TableContact] = {}
        self._occupied = 0  # bit ID_BITS - 1 - i: bucket i has members

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[TableContact]:
        """In the order of entry."""
        return iter(self._by_id.values())

    def get(self, id: bytes) -> TableContact | None:
        return self._by_id.get(id)

    def at(self, address: Place) -> TableContact | None:
        return self._by_place.get(address)

    def index(self, id: bytes) -> int:
        """The bucket of an ID: the number of leading bits shared. ID_BITS for the own ID."""
        return ID_BITS - (self._number ^ int.from_bytes(id, "big")).bit_length()

    def deepest(self) -> int:
        """The index of the bucket with the closest contact; -1 in an empty table."""
        return ID_BITS - (self._occupied & -self._occupied).bit_length() if self._occupied else -1

    def size(self, index: int) -> int:
        bucket = self._buckets.get(index)
        return len(bucket.entries) if bucket else 0

    def is_full(self, index: int) -> bool:
        return self.size(index) >= self.room(index)

    def room(self, index: int) -> int:
        """The number of contacts that a bucket may hold."""
        # 40 for a wide one: the verifier of the XDP program takes a loop of 40 steps, and not one of 64.
        return ROOM if self.is_wide(index) else self._k

    def is_wide(self, index: int) -> bool:
        """Whether every node of a bucket keeps some key together with this node."""
        # Fewer than r nodes are closer, so for some key of this node each contact of the bucket is one of the r
        # closest.
        return self.warm and self._closer(index) < self.replicas

    def wide(self) -> list[int]:
        """The wide buckets that have k contacts or more, and may have more yet."""
        full = [index for index, bucket in self._buckets.items() if len(bucket.entries) >= self._k]
        return sorted(index for index in full if self.is_wide(index) and not self.is_full(index))

    def oldest(self, index: int) -> TableContact:
        """The least recently seen member of a bucket that is not empty."""
        return next(iter(self._buckets[index].entries.values()))

    # Changes

    def answered(self, contact: Contact, rtt: float, now: SteadyTime) -> Standing:
        """A matched reply came from `contact`, whose address has no other ID in the table."""
        entry = self._by_id.get(contact.id)
        if entry is None:
            return self._enter(contact, rtt, now)
        # A known ID at another address must wait until the old address is dead: nobody can take over an ID.
        if entry.contact != contact:
            self.remember(contact)
            return Standing.ELSEWHERE
        entry.answered = now
        entry.sample(rtt)
        self._touch(entry, now)
        self._acquit(entry, now)
        return Standing.KNOWN

    def heard(self, entry: TableContact, now: SteadyTime) -> None:
        """A contact sent a request. It was seen, but that does not prove that it answers."""
        self._touch(entry, now)

    def missed(self, entry: TableContact, sent: float, now: SteadyTime) -> bool:
        """Note that the request sent at `sent` had no answer in time. Returns whether that counts.

        Requests under way together count once. A request sent before the last answer does not count.
        """
        # Requests lost together, say by one full queue, are one piece of evidence.
        if sent < entry.answered or sent < entry.missed:
            return False
        entry.missed = now
        entry.misses += 1
        return True

    def demote(self, entry: TableContact) -> None:
        """Publish the bucket without this contact until it answers."""
        # A demoted contact is not published. Publishing the same bucket again would cost the datapaths a copy
        # for nothing.
        if not entry.demoted:
            entry.demoted = True
            self._announce(entry.index, self._buckets[entry.index])

    def remove(self, entry: TableContact) -> None:
        """Take a contact out and publish its bucket."""
        bucket = self._buckets[entry.index]
        del bucket.entries[entry.contact.id]
        del self._by_id[entry.contact.id]
        del self._by_place[entry.contact[1:]]
        if not bucket.entries:
            self._occupied &= ~(1 << (ID_BITS - 1 - entry.index))
        self._announce(entry.index, bucket)

    def remember(self, contact: Contact) -> None:
        """Keep a contact without a place as a replacement. It displaces the oldest replacement."""
        waiting = self._bucket(self.index(contact.id)).replacements
        # Out and in again, so that the newest address of an ID is the last.
        waiting.pop(contact.id, None)
        waiting[contact.id] = contact
        if len(waiting) > self._max_replacements:
            del waiting[next(iter(waiting))]

    def take_replacement(self, index: int) -> Contact | None:
        """The newest replacement, if the bucket has room. It has to be pinged before it is trusted."""
        bucket = self._buckets.get(index)
        if bucket is None or not bucket.replacements or self.is_full(index):
            return None
        # The newest: it was heard last, and so lives most likely.
        return bucket.replacements.popitem()[1]

    # Reading

    def closest(self, key: bytes, count: int, without: bytes = b"") -> list[Contact]:
        """Up to `count` contacts, nearest to the 20-byte key first; none with the ID `without`."""
        number = int.from_bytes(key, "big")
        found: list[Contact] = []
        # Whole buckets in order of distance, so only a few are sorted, and not the table.
        for index in self._outward(number):
            entries = self._buckets[index].entries
            # Distances of different IDs differ, so a dictionary loses none.
            distances = {entry.number ^ number: entry.contact for entry in entries.values()}
            found += [distances[distance] for distance in sorted(distances)]
            if without in entries:
                found = [contact for contact in found if contact.id != without]
            if len(found) >= count:
                return found[:count]
        return found

    def neighbours(self, count: int) -> list[Contact]:
        """The contacts closest to this node."""
        return self.closest(self.self_id, count)

    def ring(self) -> list[TableContact]:
        """The members of the ring that this node is in, from the next one on: by ID, and around.

        The ring is the largest part of the ID space around this node in which everybody knows
        everybody: both sides of every bucket in it have less than k members, or one has hardly any.
        All its members come to the same result.
        """
        own = 1
        found: list[TableContact] = []
        for index in range(self.deepest(), -1, -1):
            other = self.size(index)
            # A full bucket may lack nodes, so not everybody beyond it knows everybody.
            if max(own, other) >= self._k and min(own, other) >= FEW:
                break
            own += other
            if other:
                found += self._buckets[index].entries.values()
        return sorted(found, key=lambda entry: (entry.number - self._number) % _SPACE)

    def status(self, now: SteadyTime) -> list[dict[str, object]]:
        """Plain data: each bucket that is not empty, its members least recently seen first."""
        return [
            {
                "index": index,
                "contacts": [entry.status(now) for entry in bucket.entries.values()],
                "replacements": len(bucket.replacements),
            }
            for index, bucket in sorted(self._buckets.items())
            if bucket.entries or bucket.replacements
        ]

    # Inside

    def _closer(self, index: int) -> int:
        """The nodes closer to this one than those of a bucket are, and this one; counts no further than `replicas`."""
        count = 1
        for closer in range(self.deepest(), index, -1):
            count += self.size(closer)
            if count >= self.replicas:
                break
        return count

    def _enter(self, contact: Contact, rtt: float, now: SteadyTime) -> Standing:
        index = self.index(contact.id)
        bucket = self._bucket(index)
        # Old contacts that answer are the best ones to keep (Kademlia, section 2.2).
        if self.is_full(index):
            self.remember(contact)
            return Standing.FULL
        entry = TableContact(contact, int.from_bytes(contact.id, "big"), index, now)
        entry.sample(rtt)
        bucket.replacements.pop(contact.id, None)
        bucket.entries[contact.id] = entry
        self._by_id[contact.id] = entry
        self._by_place[contact[1:]] = entry
        # One bit for each bucket: the next occupied one is found by arithmetic on a number, not by a walk over
        # 160 buckets.
        self._occupied |= 1 << (ID_BITS - 1 - index)
        self._announce(index, bucket)
        return Standing.ADDED

    def _acquit(self, entry: TableContact, now: SteadyTime) -> None:
        """It answered, so forget everything that spoke against it."""
        entry.misses = 0
        entry.told = 0
        entry.passed = False
        # The error was forged, or the process is back.
        if entry.unreachable:
            entry.unreachable = False
            # From now on a forged ICMP error does nothing for a while.
            entry.refuted = now
        if entry.demoted:
            entry.demoted = False
            self._announce(entry.index, self._buckets[entry.index])

    def _touch(self, entry: TableContact, now: SteadyTime) -> None:
        entry.seen = now
        entries = self._buckets[entry.index].entries
        entries[entry.contact.id] = entries.pop(entry.contact.id)

    def _bucket(self, index: int) -> Bucket:
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = Bucket()
        return bucket

    def _announce(self, index: int, bucket: Bucket) -> None:
        self._publish(index, [entry.contact for entry in bucket.entries.values() if not entry.demoted])

    def _outward(self, number: int) -> Iterator[int]:
        """Buckets with members, nearest to a key first.

        Where self XOR key has a one, ascending; then where it has a zero, descending.
        """
        distance = self._number ^ number
        # A set bit of the distance says that the key is on the other side of that bucket's branch: its contacts
        # are nearer to the key than this node is.
        closer = self._occupied & distance
        while closer:
            top = closer.bit_length()
            closer ^= 1 << (top - 1)
            yield ID_BITS - top
        farther = self._occupied & ~distance
        while farther:
            low = farther & -farther
            farther ^= low
            yield ID_BITS - low.bit_length()
