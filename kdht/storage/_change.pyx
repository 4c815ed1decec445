# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""One batch of changes: for each key the record on disk and the record to come.

Records, the index by expiry, the counts and the promises go into one write batch of LevelDB. So they agree
after any crash, and no start has to walk the database to repair them.

`apply` decides the nearly always: a write of an ordinary record to a key without promises, whose version is
above that of the record there, if there is one. `base.settle` and `promises.grant` decide all else. It is
the rule that tests/storage/test_storage_change.py holds this one against.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from kdht.storage._known_keys cimport KnownKeys

from kdht.core._layout cimport (
    KDHT_CERTIFIED_BIT, KDHT_ID_LEN, KDHT_MAX_VALUE, KDHT_RECORD_FLAG_IMMUTABLE, KDHT_RECORD_FLAG_SIGNED,
    KDHT_RECORD_FLAG_TOMBSTONE, be64toh, htobe64, htonl, htons, ntohl, ntohs,
)
from kdht.wire._named cimport item

import struct

from kdht.storage import base, layout, promises
from kdht.storage.base import Result, Write, settle, without_room
from kdht.storage.promises import MAX_KEYS, above, grant, live
from kdht.storage.record import StoredRecord
from kdht.wire.certified import CERTIFIED

cdef enum:
    HEAD_LEN = 22  # layout's u64 version, u64 expiry, u32 flags, u16 length of the value

cdef uint32_t KINDS = KDHT_RECORD_FLAG_IMMUTABLE | KDHT_RECORD_FLAG_SIGNED
cdef bytes RECORD = layout.RECORD
cdef object MISSING = object()
if struct.calcsize(layout.HEAD_FORMAT) != HEAD_LEN:
    raise ImportError("the layout of a record has changed: change _change.pyx too")


cdef inline bint is_possible(object record, uint64_t latest) except -1:
    """`versions.is_possible`."""
    cdef uint64_t version = item(record, 0)
    if <uint32_t>item(record, 2) & KINDS:
        return version >> KDHT_CERTIFIED_BIT
    return version <= latest


cdef object unpack(bytes raw):
    """`layout.unpack_record`."""
    cdef const uint8_t *at = raw
    cdef uint64_t numbers[2]
    cdef uint32_t flags
    cdef uint16_t length
    # The plain rule raises with the right message, and it is the only place that words it.
    if len(raw) < HEAD_LEN:
        return layout.unpack_record(raw)  # which raises
    memcpy(numbers, at, 16)
    memcpy(&flags, at + 16, 4)
    memcpy(&length, at + 20, 2)
    if len(raw) != HEAD_LEN + ntohs(length):
        return layout.unpack_record(raw)
    # Past StoredRecord's own constructor, which is Python and takes as long as the rest of this function.
    return tuple.__new__(
        StoredRecord, (be64toh(numbers[0]), be64toh(numbers[1]), ntohl(flags), raw[HEAD_LEN:]))


cdef bytes pack(object record):
    """`layout.pack_record`."""
    cdef bytes value = item(record, 3)
    cdef uint64_t numbers[2]
    cdef uint32_t flags = htonl(<uint32_t>item(record, 2))
    cdef uint16_t length = htons(<uint16_t>len(value))
    # Filled below, before anybody else can see it: one allocation for head and value.
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, HEAD_LEN + len(value))
    cdef char *at = PyBytes_AS_STRING(raw)
    numbers[0], numbers[1] = htobe64(<uint64_t>item(record, 0)), htobe64(<uint64_t>item(record, 1))
    memcpy(at, numbers, 16)
    memcpy(at + 16, &flags, 4)
    memcpy(at + 20, &length, 2)
    memcpy(at + HEAD_LEN, PyBytes_AS_STRING(value), len(value))
    return raw


def check(wishes) -> None:
    """`base.check`: raises ValueError for a wish that does not fit the layout."""
    for wish in wishes:
        if type(wish) is not Write or not _fits(item(wish, 0), item(wish, 1)):
            base.check((wish,))


cdef bint _fits(bytes key, record) except -1:
    """Whether this is certainly a good write. The numbers of an ordinary record are below 2^63."""
    cdef object version = item(record, 0), expiry = item(record, 1), flags = item(record, 2)
    return (len(key) == KDHT_ID_LEN and 0 < version < CERTIFIED and 0 <= expiry < CERTIFIED
            and 0 <= flags <= KDHT_RECORD_FLAG_TOMBSTONE and len(<bytes>item(record, 3)) <= KDHT_MAX_VALUE)


cdef class StoreChange:
    """A batch that grows. `get` is LevelDB's, `known` has the keys on disk, `promised` the promises.

    A record whose version is impossible (`latest`: as in `versions`) counts as none. It is set aside when
    another one takes its place.
    """

    cdef object get
    cdef KnownKeys known
    cdef object latest_version
    cdef uint64_t latest
    cdef dict promised
    cdef readonly dict pledged
    cdef dict before
    cdef dict after
    cdef list stray

    def __cinit__(self, get, KnownKeys known not None, latest, dict promised=None):
        self.get, self.known, self.latest_version, self.latest = get, known, latest, latest
        self.promised = {} if promised is None else promised
        self.pledged, self.before, self.after, self.stray = {}, {}, {}, []

    cpdef object standing(self, bytes key):
        """The record of `key` after all changes of the batch so far."""
        # MISSING and not None: None is a record that the batch removes.
        record = self.after.get(key, MISSING)
        if record is MISSING:
            raw = self.get(RECORD + key, verify_checksums=True) if self.known.may_have(key) else None
            record = None if raw is None else unpack(raw)
            self.before[key] = self.after[key] = record
        return record if record is None or is_possible(record, self.latest) else None

    def put(self, key, record):
        """Set the record of a key, or None to remove it. Call `standing` for the key first."""
        self.after[key] = record

    def drop_entry(self, entry):
        """Remove an index entry that has no record."""
        self.stray.append(entry)

    def pledge(self, key, pledges):
        """Set the promises of a key."""
        self.pledged[key] = pledges

    cdef object pledges(self, bytes key):
        """The promises of a key after all changes of the batch so far."""
        if not self.promised and not self.pledged:  # nearly always: promises are rare and short
            return ()
        pledges = self.pledged.get(key)
        return self.promised.get(key, ()) if pledges is None else pledges

    def apply(self, wishes, now, room) -> tuple:
        """Do writes and promises in their order. Gives their outcomes, and each changed key with its record.

        `room`: a storage.Room, which may refuse. `check` has passed.
        """
        cdef list outcomes = [], changes = []
        for wish in wishes:
            outcomes.append(self._write(wish, now, room, changes) if type(wish) is Write
                            else self._promise(wish, now))
        return outcomes, changes

    cdef object _write(self, wish, now, room, list changes):
        cdef bytes key = item(wish, 0)
        record = item(wish, 1)
        previous, pledges = self.standing(key), self.pledges(key)
        # The common case without a Python call. All that could go another way takes the plain rule below,
        # so there is one rule.
        if item(wish, 2) is None and not pledges and self._wins(record, previous):
            stays, result = record, tuple.__new__(Result, (
                True, previous is not None and _is_visible(previous, now), item(record, 0), 0, False))
        else:
            pledges_now = live(pledges, now) if pledges else ()
            stays, result = settle(previous, wish, now, self.latest_version, pledges_now)
        if stays is not None and stays != previous:
            # Without pressure all have room (Room.takes).
            if room.pressure and not room.takes(deleted=stays.deleted, replaces=previous is not None):
                return without_room(result, previous)
            self.after[key] = stays
            changes.append((key, stays))
        if pledges and stays is not None:
            # In the same batch as the record: no crash may come between a promise and the write that ends
            # it.
            self.pledged[key] = above(pledges, stays.version)
        return result

    cdef bint _wins(self, record, previous) except -1:
        """Whether an ordinary record is possible, and its version is above the one that stands."""
        cdef uint64_t version = item(record, 0)
        if <uint32_t>item(record, 2) & KINDS or version > self.latest:
            return False
        return previous is None or version > <uint64_t>item(previous, 0)

    cdef object _promise(self, asked, now):
        cdef bytes key = asked.key
        pledges = self.pledges(key)
        # All promises are in memory, so their number is bounded.
        room = len(self.promised) < MAX_KEYS
        after, granted = grant(self.standing(key), pledges, asked, now, self.latest_version, room=room)
        if after != pledges:
            self.pledged[key] = after
        return granted

    def replaced(self) -> list:
        """The records that the batch changes, as (key, old record, new record). A duplicate costs no sync."""
        cdef list found = []
        for key, before in self.before.items():
            after = self.after[key]
            # Identity first: most records of a batch are either new or untouched, and comparing values
            # costs.
            if before is not after and before != after:
                found.append((key, before, after))
        return found

    def is_empty(self, list replaced) -> bool:
        """Whether there is nothing to write."""
        return not (replaced or self.stray or self.pledged)

    def set_aside(self, list replaced) -> int:
        """How many of these are records with impossible versions."""
        cdef Py_ssize_t count = 0
        for _, before, _ in replaced:
            count += before is not None and not is_possible(before, self.latest)
        return count

    def write(self, db, list replaced, counts, serial, *, sync):
        """Write the batch, number `serial` of the database. Returns the counts after it."""
        batch = db.write_batch(sync=sync)
        put, delete = batch.put, batch.delete
        for entry in self.stray:
            delete(entry)
        for key, before, after in replaced:
            self._replace(put, delete, key, before, after)
        for key, pledges in self.pledged.items():
            if pledges:
                put(layout.PROMISE + key, promises.pack(pledges))
            else:
                delete(layout.PROMISE + key)
        counts = _counts_after(counts, replaced)
        put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(*counts))
        # Last: `witness` finds it there, in LevelDB's log.
        put(layout.SERIAL_KEY, layout.SERIAL_VALUE.pack(serial))
        # Known before they can be read, and until they are gone. A failed batch leaves marks without a
        # record: LevelDB is asked for these keys.
        for key, before, _ in replaced:
            if before is None:
                self.known.add(key)
        batch.write()
        for key, _, after in replaced:
            if after is None:
                self.known.remove(key)
        return counts

    cdef int _replace(self, put, delete, bytes key, before, after) except -1:
        """Write or delete the record, and its index entry if the expiry changed."""
        was_due = item(before, 1) if before is not None else 0
        is_due = item(after, 1) if after is not None else 0
        if after is None:
            delete(RECORD + key)
        else:
            put(RECORD + key, pack(after))
        if was_due != is_due:
            if was_due:
                delete(layout.expiry_key(was_due, key))
            if is_due:
                put(layout.expiry_key(is_due, key), b"")
        if before is not None and not is_possible(before, self.latest):
            # Kept, because the clock may be what was wrong.
            put(layout.ASIDE + key, pack(before))
        return 0


cdef bint _is_visible(record, double now) except -1:
    """Whether `base.visible` gives the record."""
    cdef uint64_t expiry = item(record, 1)
    if <uint32_t>item(record, 2) & KDHT_RECORD_FLAG_TOMBSTONE:
        return False
    return not expiry or <double>expiry > now


cdef object _counts_after(counts, list replaced):
    cdef int64_t records = counts[0], value_bytes = counts[1], tombstones = counts[2]
    for _, before, after in replaced:
        if before is not None:
            records -= 1
            value_bytes -= len(<bytes>item(before, 3))
            tombstones -= <uint32_t>item(before, 2) & KDHT_RECORD_FLAG_TOMBSTONE != 0
        if after is not None:
            records += 1
            value_bytes += len(<bytes>item(after, 3))
            tombstones += <uint32_t>item(after, 2) & KDHT_RECORD_FLAG_TOMBSTONE != 0
    # Never below 0: a count that drifted in an older version must not become a huge unsigned number.
    return layout.Counts(max(records, 0), max(value_bytes, 0), max(tombstones, 0))
