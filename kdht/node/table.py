"""The routing table's books: 160 k-buckets, and who may be in them.

Contract: a contact enters through `answered` alone, after a matched reply to a request of
ours; every change of a bucket's members is published as a whole. Old contacts that answer
are never displaced by new ones (Maymounkov and Mazieres, "Kademlia", 2002, section 2.2).
An address has one ID and an ID one address. No I/O, no clock, no messages: who is asked,
and when, is decided elsewhere.
"""

from collections.abc import Callable, Iterator
from enum import Enum

from kdht._shared import ID_BITS
from kdht.wire import Address, Contact

Publish = Callable[[int, list[Contact]], None]
"""Takes a bucket's index and all its contacts."""

Place = tuple[bytes, int]
"""An address as a key: equal to the Address."""


class Standing(Enum):
    """What a contact that answered is to the table."""

    KNOWN = "known"
    ADDED = "added"
    FULL = "full"
    """It waits in the replacement cache."""
    ELSEWHERE = "elsewhere"
    """Its ID is in the table with another address; it waits in the replacement cache."""


class Entry:
    """A contact in the table, and what is known of it. Times are the node's `now`."""

    __slots__ = (
        "added",
        "answered",
        "contact",
        "index",
        "missed",
        "misses",
        "number",
        "rtt",
        "rtt_var",
        "seen",
    )

    def __init__(self, contact: Contact, number: int, index: int, now: float) -> None:
        self.contact = contact
        self.number = number
        self.index = index
        self.added = now
        self.seen = now
        """The last sign of life, a request of its own included."""
        self.answered = now
        """The last matched reply."""
        self.missed = now
        """When the last missed reply was counted."""
        self.misses = 0
        """Replies missed since the last matched one."""
        self.rtt: float | None = None
        self.rtt_var = 0.0

    def sample(self, rtt: float) -> None:
        """Take in one round-trip time, seconds (RFC 6298, section 2)."""
        if self.rtt is None:
            self.rtt, self.rtt_var = rtt, rtt / 2
            return
        self.rtt_var += (abs(self.rtt - rtt) - self.rtt_var) / 4
        self.rtt += (rtt - self.rtt) / 8

    def timeout(self, first: float, least: float, most: float) -> float:
        """How long to wait for an answer (RFC 6298), within bounds; `first` before any sample."""
        if self.rtt is None:
            return first
        return min(max(self.rtt + 4 * self.rtt_var, least), most)


class Bucket:
    """Members and waiting replacements by ID, least recently seen first."""

    __slots__ = ("entries", "replacements")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.replacements: dict[bytes, Contact] = {}


class Table:
    """The k-buckets around `self_id`."""

    def __init__(self, self_id: bytes, publish: Publish, *, k: int, replacements: int) -> None:
        self.self_id = self_id
        self._number = int.from_bytes(self_id, "big")
        self._publish = publish
        self._k = k
        self._max_replacements = replacements
        self._buckets: dict[int, Bucket] = {}
        self._by_id: dict[bytes, Entry] = {}
        self._by_place: dict[Place, Entry] = {}
        self._occupied = 0  # bit ID_BITS - 1 - i: bucket i has members

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        """In the order of entry."""
        return iter(self._by_id.values())

    def get(self, id: bytes) -> Entry | None:
        return self._by_id.get(id)

    def at(self, address: Place) -> Entry | None:
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
        return self.size(index) >= self._k

    def oldest(self, index: int) -> Entry:
        """The least recently seen member of a bucket that is not empty."""
        return next(iter(self._buckets[index].entries.values()))

    # Changes

    def answered(self, contact: Contact, rtt: float, now: float) -> Standing:
        """A matched reply came from `contact`, whose address has no other ID in the table."""
        entry = self._by_id.get(contact.id)
        if entry is None:
            return self._enter(contact, rtt, now)
        if entry.contact != contact:
            self.remember(contact)
            return Standing.ELSEWHERE
        entry.answered = now
        entry.misses = 0
        entry.sample(rtt)
        self._touch(entry, now)
        return Standing.KNOWN

    def heard(self, entry: Entry, now: float) -> None:
        """A member sent a request: it is seen, which proves nothing of its answers."""
        self._touch(entry, now)

    def missed(self, entry: Entry, sent: float, now: float) -> bool:
        """The request sent to a member at `sent` had no answer in time; whether that counts.

        Requests under way together count once, and none that an answer overtook.
        """
        if sent < entry.answered or sent < entry.missed:
            return False
        entry.missed = now
        entry.misses += 1
        return True

    def remove(self, entry: Entry) -> None:
        """Take a member out and publish its bucket."""
        bucket = self._buckets[entry.index]
        del bucket.entries[entry.contact.id]
        del self._by_id[entry.contact.id]
        del self._by_place[entry.contact[1:]]
        if not bucket.entries:
            self._occupied &= ~(1 << (ID_BITS - 1 - entry.index))
        self._announce(entry.index, bucket)

    def remember(self, contact: Contact) -> None:
        """Keep one that has no place, in place of the one kept longest."""
        waiting = self._bucket(self.index(contact.id)).replacements
        waiting.pop(contact.id, None)
        waiting[contact.id] = contact
        if len(waiting) > self._max_replacements:
            del waiting[next(iter(waiting))]

    def take_replacement(self, index: int) -> Contact | None:
        """Who was remembered last, if there is room in the bucket: to be pinged, not trusted."""
        bucket = self._buckets.get(index)
        if bucket is None or not bucket.replacements or len(bucket.entries) >= self._k:
            return None
        return bucket.replacements.popitem()[1]

    # Reading

    def closest(self, key: bytes, count: int, without: bytes = b"") -> list[Contact]:
        """Up to `count` contacts, nearest to the 20-byte key first; none with the ID `without`."""
        number = int.from_bytes(key, "big")
        found: list[Contact] = []
        for index in self._outward(number):
            entries = self._buckets[index].entries
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

    def status(self, now: float) -> list[dict[str, object]]:
        """Plain data: each bucket that is not empty, its members least recently seen first."""
        return [
            {
                "index": index,
                "contacts": [_entry_status(entry, now) for entry in bucket.entries.values()],
                "replacements": len(bucket.replacements),
            }
            for index, bucket in sorted(self._buckets.items())
            if bucket.entries or bucket.replacements
        ]

    # Inside

    def _enter(self, contact: Contact, rtt: float, now: float) -> Standing:
        index = self.index(contact.id)
        bucket = self._bucket(index)
        if len(bucket.entries) >= self._k:
            self.remember(contact)
            return Standing.FULL
        entry = Entry(contact, int.from_bytes(contact.id, "big"), index, now)
        entry.sample(rtt)
        bucket.replacements.pop(contact.id, None)
        bucket.entries[contact.id] = entry
        self._by_id[contact.id] = entry
        self._by_place[contact[1:]] = entry
        self._occupied |= 1 << (ID_BITS - 1 - index)
        self._announce(index, bucket)
        return Standing.ADDED

    def _touch(self, entry: Entry, now: float) -> None:
        entry.seen = now
        entries = self._buckets[entry.index].entries
        entries[entry.contact.id] = entries.pop(entry.contact.id)

    def _bucket(self, index: int) -> Bucket:
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = Bucket()
        return bucket

    def _announce(self, index: int, bucket: Bucket) -> None:
        self._publish(index, [entry.contact for entry in bucket.entries.values()])

    def _outward(self, number: int) -> Iterator[int]:
        """Buckets with members, nearest to a key first.

        Where self XOR key has a one, ascending; then where it has a zero, descending.
        """
        distance = self._number ^ number
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


def _entry_status(entry: Entry, now: float) -> dict[str, object]:
    contact = entry.contact
    return {
        "id": contact.id.hex(),
        "address": str(Address(contact.ip, contact.port)),
        "age": now - entry.added,
        "seen": now - entry.seen,
        "rtt_ms": None if entry.rtt is None else entry.rtt * 1000,
        "failures": entry.misses,
    }
