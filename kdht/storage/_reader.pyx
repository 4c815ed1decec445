# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Records for the GETs of a batch: from LevelDB to the socket's loop, with few Python objects.

Contract: a record is given only if a client may see it now. In every unclear case the answer is None and the
request takes the ordinary path through the service: no record, a tombstone, a damaged record, an error of
the store, a key that this node has not caught up on. Python runs once a key for LevelDB's call and once for
`is_caught_up`. For one thread.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._layout cimport (
    KDHT_RECORD_FLAG_IMMUTABLE, KDHT_RECORD_FLAG_SIGNED, KDHT_RECORD_FLAG_TOMBSTONE, be64toh, ntohl, ntohs,
)
from kdht.storage._cache cimport RecordCache

import struct

from kdht.storage import layout
from kdht.storage.versions import latest_readable

cdef enum:
    HEAD_LEN = 22  # layout's u64 version, u64 expiry, u32 flags, u16 length of the value

cdef uint32_t CERTIFIED_KINDS = KDHT_RECORD_FLAG_IMMUTABLE | KDHT_RECORD_FLAG_SIGNED
cdef bytes PREFIX = layout.RECORD
if struct.calcsize(layout.HEAD_FORMAT) != HEAD_LEN:
    raise ImportError("the layout of a record has changed: change _reader.pyx too")


cdef class StoreReader:
    """`get` gives the packed record at a LevelDB key, or None. What was read goes into `cache`.

    `is_caught_up`, by key: whether this node may answer from its own store alone.
    """

    cdef object get
    cdef RecordCache cache
    cdef object is_caught_up
    cdef readonly uint64_t answered
    """How many records were given."""

    def __cinit__(self, get, RecordCache cache, is_caught_up):
        self.get = get
        self.cache = cache
        self.is_caught_up = is_caught_up

    def of(self, keys: list, rooms: list, now: float) -> list:
        """For each 20-byte key (version, expiry, flags, value), or None.

        `rooms`: for each key the most bytes that its value may have. `now`: Unix seconds.
        """
        cdef Py_ssize_t i
        cdef list found = [None] * len(keys)
        cdef uint64_t latest = latest_readable(now)
        for i in range(len(keys)):
            try:
                found[i] = self._record(keys[i], rooms[i], now, latest)
            except Exception:  # the ordinary path meets the same error and reports it
                continue
            self.answered += found[i] is not None
        return found

    cdef tuple _record(self, bytes key, Py_ssize_t room, double now, uint64_t latest):
        cdef bytes raw
        cdef const unsigned char *at
        cdef uint64_t numbers[2]
        cdef uint64_t version, expiry, begun = 0
        cdef uint32_t flags
        cdef uint16_t length
        if self.cache is not None:
            # Before the store is read, so that a change in between makes `fill` refuse.
            begun = self.cache.begun(key)
        # Ask before the read. Else a record could arrive in between, and with it the node be caught up on its
        # key: the read would be too old for the answer.
        if not self.is_caught_up(key):
            return None
        # `get` is LevelStore._packed, which verifies the block's checksum as the ordinary path does.
        raw = self.get(PREFIX + key)
        if raw is None or len(raw) < HEAD_LEN:
            return None
        at = raw
        memcpy(numbers, at, 16)
        memcpy(&flags, at + 16, 4)
        memcpy(&length, at + 20, 2)
        version, expiry, flags, length = be64toh(numbers[0]), be64toh(numbers[1]), ntohl(flags), ntohs(length)
        if len(raw) != HEAD_LEN + length or flags & KDHT_RECORD_FLAG_TOMBSTONE or length > room:
            return None
        if 0 < expiry and <double>expiry <= now:
            return None
        # `versions.is_possible`; the ordinary path counts and tells.
        if version > latest and not flags & CERTIFIED_KINDS:
            return None
        value = raw[HEAD_LEN:]
        if self.cache is not None:
            self.cache.fill(key, begun, version, expiry, flags, value)
        return version, expiry, flags, value
