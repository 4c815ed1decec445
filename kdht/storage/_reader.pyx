# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""The records that answer a batch's GETs, between the socket's loop and LevelDB.

Contract: gives a record only where a reader of the store would see it, and nothing else than
its value decides: whatever is unclear (no record, a tombstone, a damaged one, a store that fails, a key that
this node has not caught up on) is None, and goes the long way. Python runs for LevelDB's own call and for
`is_caught_up`, once a key each. One thread calls.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._layout cimport KDHT_RECORD_FLAG_TOMBSTONE, be64toh, ntohl, ntohs
from kdht.storage._cache cimport RecordCache

import struct

from kdht.storage import layout

cdef enum:
    HEAD_LEN = 22  # layout's u64 version, u64 expiry, u32 flags, u16 length of the value

cdef bytes PREFIX = layout.RECORD
if struct.calcsize(layout.HEAD_FORMAT) != HEAD_LEN:
    raise ImportError("the layout of a record has changed: change _reader.pyx too")


cdef class StoreReader:
    """`get` gives the raw record at a LevelDB key, or None; `cache` is filled with what was read.

    `is_caught_up`, by key: whether the own store alone may answer.
    """

    cdef object get
    cdef RecordCache cache
    cdef public object is_caught_up
    cdef readonly uint64_t answered
    """Records that were given."""

    def __cinit__(self, get, RecordCache cache=None):
        self.get = get
        self.cache = cache
        self.is_caught_up = _always

    def of(self, keys: list, rooms: list, now: float) -> list:
        """For each 20-byte key the record (version, expiry, flags, value), if there is room for its value."""
        cdef Py_ssize_t i
        cdef list found = [None] * len(keys)
        for i in range(len(keys)):
            try:
                found[i] = self._record(keys[i], rooms[i], now)
            except Exception:  # the long way finds out what it is, and says so
                continue
            self.answered += found[i] is not None
        return found

    cdef tuple _record(self, bytes key, Py_ssize_t room, double now):
        cdef bytes raw
        cdef const unsigned char *at
        cdef uint64_t numbers[2]
        cdef uint64_t version, expiry, begun = 0
        cdef uint32_t flags
        cdef uint16_t length
        if self.cache is not None:
            begun = self.cache.begun(key)
        if not self.is_caught_up(key):  # first: a record may come in between
            return None
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
        value = raw[HEAD_LEN:]
        if self.cache is not None:
            self.cache.fill(key, begun, version, expiry, flags, value)
        return version, expiry, flags, value


def _always(key: bytes) -> bool:
    return True
