"""The members of sets in memory, in the order of their places: so a MEMBERS reads nothing from the disk.

Contract: no I/O but the store's, no clock. Any thread may call. A set is read from the store when it is first asked for;
then `changed` keeps it as the store is. Of the sets in memory, those that were asked for longest ago go first.

A record counts as a member's if it lies where members of its set lie and begins as their values do. Tombstones stay too,
until they expire: of two replicas' copies the newer one counts.
"""

import heapq
import math
import threading
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from kdht.storage import Store, StoredRecord, neighbourhood, newer
from kdht.storage._members_cache import drawn_part
from kdht.storage.base import MAX_EXPIRY, alive
from kdht.storage.versions import ANY_VERSION
from kdht.times import UnixTime
from kdht.wire._shared import MAX_BODY
from kdht.wire.certified import is_certified
from kdht.wire.sets import (
    ANYWHERE,
    END,
    ENTRY_LEN,
    FIRST,
    HEAD_LEN,
    LISTED_LEN,
    MAX_MEMBERS,
    MAX_PAYLOAD,
    PLACE_LEN,
    SHARED_LEN,
    Listed,
    ListPage,
    Member,
    MembersPage,
    id_of,
    pack_list,
)

MAX_ENTRIES = 2 * MAX_MEMBERS
"""Members of all sets in memory, about: the set that was asked for last stays, whatever it has."""
MAX_SETS = 4096
MAX_LISTINGS = 2048
"""In memory: some kilobytes each."""
MAX_SCANNED = 4 * MAX_MEMBERS
"""Records that one set's first read looks at."""


class Part(NamedTuple):
    """A part of a set."""

    start: int
    stop: int
    """The place behind it; END: it goes on to the last member."""
    drawn: bool
    """Whether it is one of several equal parts."""
    number: int = 0
    parts: int = 1
    """Of so many equal parts it has this number."""


class Listing:
    """What this node tells of a set from one place on (LIST), with what follows from that. It never changes."""

    __slots__ = ("first_end", "newest", "packed", "page", "replies")

    def __init__(self, page: ListPage) -> None:
        self.page = page
        self.packed = pack_list(page)
        self.newest = max((each.version for each in page.listed), default=0)
        """The greatest version."""
        self.first_end = min((each.expiry for each in page.listed), default=MAX_EXPIRY)
        """No record ends earlier."""
        self.replies: dict[tuple[Part, int, int], bytes] = {}
        """Replies that were made of it alone: by part, room in bytes, and Unix second."""


class Living:
    """The living members of one set, in the order of their places."""

    def __init__(self) -> None:
        self.places: list[bytes] = []
        self.payload_bytes = 0


class NearbySets:
    """All records whose keys begin as those of a set's members: nearly always one set."""

    def __init__(self) -> None:
        self.records: dict[bytes, StoredRecord] = {}
        """By place."""
        self.graves: list[bytes] = []
        """The places of tombstones, sorted."""
        self._living: dict[bytes, Living] = {}
        """By the rest of the set's key."""
        self.confirmed: dict[bytes, bool] = {}
        """Places whose records were confirmed to their announcers by this node; whether on disks."""
        self.next_end = MAX_EXPIRY
        """No record ends earlier."""
        self.changes = 0
        """Steps with every change."""

    def living(self, rest: bytes) -> Living:
        return self._living.get(rest) or Living()

    def put(self, place: bytes, record: StoredRecord) -> None:
        """Take a record, unless a newer one is known."""
        known = self.records.get(place)
        if known is not None and newer(known, record):
            return
        self.changes += 1
        self._remove(place)
        if record.deleted:
            insort(self.graves, place)
        elif _is_members(record):
            living = self._living.setdefault(record.value[:PLACE_LEN], Living())
            insort(living.places, place)
            living.payload_bytes += len(record.value) - PLACE_LEN
        else:
            return
        self.records[place] = record
        self.next_end = min(self.next_end, record.expiry)

    def purge(self, now: UnixTime) -> None:
        """Forget what has expired."""
        if now < self.next_end:
            return
        self.changes += 1
        for place in [place for place, each in self.records.items() if not alive(each, now, ANY_VERSION)]:
            self._remove(place)
        self.next_end = min((record.expiry for record in self.records.values()), default=MAX_EXPIRY)

    def _remove(self, place: bytes) -> None:
        known = self.records.pop(place, None)
        if known is None:
            return
        self.confirmed.pop(place, None)
        if known.deleted:
            del self.graves[bisect_left(self.graves, place)]
            return
        rest = known.value[:PLACE_LEN]
        living = self._living[rest]
        del living.places[bisect_left(living.places, place)]
        living.payload_bytes -= len(known.value) - PLACE_LEN
        if not living.places:
            del self._living[rest]


class _Kept(NamedTuple):
    """A listing, and what it was made of."""

    found: NearbySets
    changes: int
    """As in NearbySets. After another change it is another listing."""
    listing: Listing


class SetIndex:
    """One node's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.nearby: OrderedDict[bytes, NearbySets] = OrderedDict()
        """By the first SHARED_LEN bytes of their keys. Every write looks here whether its record belongs to one."""
        self.held = 0
        """Records in all of them."""
        self._listings: OrderedDict[tuple[bytes, int], _Kept] = OrderedDict()
        """By the set's key and the place from where on; those that were asked for last."""

    def changed(self, key: bytes, record: StoredRecord) -> bool:
        """The store has taken this record. Whether a reader sees more of it than another end."""
        shared = key[:SHARED_LEN]
        if shared not in self.nearby:  # nearly always, and without the lock
            return True
        with self._lock:
            found = self.nearby.get(shared)
            if found is None:
                return True
            place = key[SHARED_LEN:]
            before = found.records.get(place)
            with self._counted(found):
                found.put(place, record)
            # Sets that nobody reads any more grow, too.
            self._bound()
            return before is None or (before.flags, before.value) != (record.flags, record.value)

    def has_room(self, set_key: bytes, key: bytes, now: UnixTime) -> bool:
        """Whether this member may come to its set, or is there already. Raises StorageError."""
        with self._lock:
            found = self._found(set_key, now)
            places = found.living(set_key[SHARED_LEN:]).places
            return len(places) < MAX_MEMBERS or key[SHARED_LEN:] in found.records

    def confirm(self, key: bytes, version: int, *, hard: bool) -> None:
        """An announcer was told that this record stands; `hard`: on disks."""
        with self._lock:
            found = self.nearby.get(key[:SHARED_LEN])
            place = key[SHARED_LEN:]
            record = None if found is None else found.records.get(place)
            if found is not None and record is not None and record.version == version:
                found.confirmed[place] = hard

    def spared(
        self, set_key: bytes, key: bytes, value: bytes, ttl: int, now: UnixTime, *, hard: bool
    ) -> StoredRecord | None:
        """The record that makes a renewal's write needless: confirmed here, the same, with half of `ttl` left. Raises StorageError."""
        with self._lock:
            found = self._found(set_key, now)
            place = key[SHARED_LEN:]
            confirmed = found.confirmed.get(place)
            if confirmed is None or (hard and not confirmed):
                return None
            record = found.records[place]
            # More than the whole TTL: the announcer wants to be forgotten sooner than before.
            lasts = ttl / 2 <= record.expiry - now <= ttl + 1
            return record if lasts and record.value == value else None

    def next_end(self, set_key: bytes) -> int:
        """When the first record of a set in memory ends, at the earliest; 0: it is not in memory."""
        with self._lock:
            found = self.nearby.get(set_key[:SHARED_LEN])
            return 0 if found is None else found.next_end

    def part(self, set_key: bytes, cursor: int, head: int, room: int, now: UnixTime, chance: int) -> Part:
        """The part of the set that a question is about. Raises StorageError.

        ANYWHERE: one of equal parts, by the random 64 bits `chance`, each as likely as the others, so every member is shown
        equally often. Each part fits into `room` bytes, if an entry has `head` bytes before its payload.
        """
        if cursor != ANYWHERE:
            return Part(cursor, END, drawn=False)
        with self._lock:
            living = self._found(set_key, now).living(set_key[SHARED_LEN:])
            count = len(living.places)
            parts = -(-(count * head + living.payload_bytes) // (room - HEAD_LEN))
            if parts <= 1:
                return Part(FIRST, END, drawn=False)
            drawn = drawn_part(chance, parts)
            first, end = drawn * count // parts, (drawn + 1) * count // parts
            stop = END if end >= count else id_of(living.places[end])
            return Part(id_of(living.places[first]), stop, drawn=True, number=drawn, parts=parts)

    def living(self, set_key: bytes, start: int, room: int, now: UnixTime) -> ListPage:
        """The members from a place on, as many as fit into a MEMBERS' reply of `room` bytes. Raises StorageError."""
        with self._lock:
            return _page_of(self._found(set_key, now), set_key, start, room, ENTRY_LEN, graves=False)

    def listing(self, set_key: bytes, start: int, now: UnixTime) -> Listing:
        """The same for a LIST's reply, with tombstones. Raises StorageError."""
        with self._lock:
            found = self._found(set_key, now)
            kept = self._listings.get((set_key, start))
            if kept is not None and kept.found is found and kept.changes == found.changes:
                self._listings.move_to_end((set_key, start))
                return kept.listing
            listing = Listing(_page_of(found, set_key, start, MAX_BODY, LISTED_LEN, graves=True))
            self._listings[set_key, start] = _Kept(found, found.changes, listing)
            if len(self._listings) > MAX_LISTINGS:
                self._listings.popitem(last=False)
            return listing

    def _found(self, key: bytes, now: UnixTime) -> NearbySets:
        shared = key[:SHARED_LEN]
        found = self.nearby.get(shared)
        if found is None:
            found = self._read(key, now)
            self.held += len(found.records)
            self._bound()
        self.nearby.move_to_end(shared)
        with self._counted(found):
            found.purge(now)
        return found

    def _read(self, key: bytes, now: UnixTime) -> NearbySets:
        """From the store."""
        shared = key[:SHARED_LEN]
        # Before the first look into the store: a record that comes behind that look then waits in `changed`. Else it would
        # be missing for as long as the set is in memory.
        found = self.nearby[shared] = NearbySets()
        try:
            records = self._store.scan(now, *neighbourhood(key, 8 * SHARED_LEN))
            for each, record in islice(records, MAX_SCANNED):
                found.put(each[SHARED_LEN:], record)
        except BaseException:
            del self.nearby[shared]
            raise
        return found

    @contextmanager
    def _counted(self, found: NearbySets) -> Iterator[None]:
        before = len(found.records)
        yield
        self.held += len(found.records) - before

    def _bound(self) -> None:
        """Forget sets until the others fit."""
        while len(self.nearby) > 1 and (self.held > MAX_ENTRIES or len(self.nearby) > MAX_SETS):
            _, dropped = self.nearby.popitem(last=False)
            self.held -= len(dropped.records)


def page_of_members(page: ListPage, part: Part, room: int) -> MembersPage:
    """The living members of a part, as many as fit into `room` bytes, with expiries in the place of seconds left."""
    members: list[Member] = []
    following = page.next
    room -= HEAD_LEN
    for place, _, expiry, _, payload in page.listed:
        room -= ENTRY_LEN + len(payload)
        if room < 0 or (part.stop != END and id_of(place) >= part.stop):
            following = id_of(place)
            break
        members.append(Member(id_of(place), expiry, payload))
    # A drawn part is no step of a walk: who wants all begins one.
    return MembersPage(page.total, FIRST if part.drawn else following, members)


def as_seen(page: MembersPage, now: UnixTime) -> MembersPage:
    """The same with the seconds left, as a reader sees it."""
    return page._replace(
        members=[Member(id, max(expiry - math.ceil(now), 1), payload) for id, expiry, payload in page.members]
    )


def _page_of(
    found: NearbySets, set_key: bytes, start: int, room: int, head: int, *, graves: bool
) -> ListPage:
    living = found.living(set_key[SHARED_LEN:])
    listed: list[Listed] = []
    room -= HEAD_LEN
    buried = _from(found.graves, start) if graves else ()
    for place in heapq.merge(_from(living.places, start), buried):
        version, expiry, flags, value = found.records[place]
        payload = value[PLACE_LEN:]
        room -= head + len(payload)
        if room < 0:
            return ListPage(len(living.places), id_of(place), listed)
        listed.append(Listed(place, version, expiry, flags, payload))
    return ListPage(len(living.places), END, listed)


def _is_members(record: StoredRecord) -> bool:
    """Whether it has the form of a member's record."""
    return (
        record.expiry > 0
        and PLACE_LEN <= len(record.value) <= PLACE_LEN + MAX_PAYLOAD
        and not is_certified(record.version, record.flags)
    )


def _from(places: list[bytes], start: int) -> Iterator[bytes]:
    """The places from `start` on. A copy of none of them: a set may be large."""
    begin = bisect_left(places, start.to_bytes(8, "big"))
    return (places[number] for number in range(begin, len(places)))
