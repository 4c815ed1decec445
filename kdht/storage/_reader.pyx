# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Records for the GETs of a batch: from LevelDB to the socket's loop, with few Python objects.

Contract: a record is given only if a client may see it now. In every unclear case the answer is None and the
request takes the ordinary path through the service: no record, a tombstone, a damaged record, an error of
the store, a key that this node has not caught up on. Python runs once a key for LevelDB's call and once for
`is_caught_up`. For one thread at a time.

`stored` is for other nodes: it gives tombstones too, and is told whether this node has caught up.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._layout cimport (
    KDHT_CERTIFIED_BIT, KDHT_MAX_BODY, KDHT_MAX_VALUE, KDHT_RECORD_FLAG_IMMUTABLE, KDHT_RECORD_FLAG_SIGNED,
    KDHT_RECORD_FLAG_TOMBSTONE, be64toh, ntohl, ntohs,
)
from kdht.storage._cache cimport RecordCache, write_stored

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
        cdef Packed found
        cdef uint64_t begun = 0
        if self.cache is not None:
            # Before the store is read, so that a change in between makes `fill` refuse.
            begun = self.cache.begun(key)
        # Ask before the read. Else a record could arrive in between, and with it the node be caught up on its
        # key: the read would be too old for the answer.
        if not self.is_caught_up(key):
            return None
        raw = self._read(key, &found)
        if raw is None or found.flags & KDHT_RECORD_FLAG_TOMBSTONE or found.length > room:
            return None
        if not _is_alive(&found, now, latest):
            return None
        value = raw[HEAD_LEN:]
        if self.cache is not None:
            self.cache.fill(key, begun, found.version, found.expiry, found.flags, value)
        return found.version, found.expiry, found.flags, value

    cdef bytes stored(self, bytes key, bint caught_up, double now):
        """The record of a key in the body of a FETCH's reply; None: there is none.

        `caught_up`: whether this node alone may answer for the key, asked before this call. Raises what the
        store raises, and ValueError for a record that cannot be sent.
        """
        cdef uint8_t body[KDHT_MAX_BODY]
        cdef Packed found
        cdef uint64_t begun = 0
        cdef int length
        cdef bytes raw
        if self.cache is not None:
            begun = self.cache.begun(key)
            length = self.cache.look_up_stored(key, now, body)
            if length >= 0:
                return body[:length]
        raw = self._read(key, &found)
        if raw is None or not _is_alive(&found, now, latest_readable(now)):
            return None
        if found.expiry > <uint64_t>0xFFFFFFFF or found.length > KDHT_MAX_VALUE:
            raise ValueError("a record that no message has room for")
        if caught_up and self.cache is not None and not found.flags & KDHT_RECORD_FLAG_TOMBSTONE:
            self.cache.fill(key, begun, found.version, found.expiry, found.flags, raw[HEAD_LEN:])
        length = <int>write_stored(body, found.version, <uint32_t>found.expiry, found.flags,
                                   <const uint8_t *>raw + HEAD_LEN, found.length)
        return body[:length]

    cdef bytes _read(self, bytes key, Packed *found):
        """The packed record of a key, and its head; None: there is none. ValueError: it is damaged."""
        # `get` is LevelStore._packed, which verifies the block's checksum as the ordinary path does.
        cdef bytes raw = self.get(PREFIX + key)
        cdef const uint8_t *at
        cdef uint64_t numbers[2]
        cdef uint32_t flags
        cdef uint16_t length
        if raw is None:
            return None
        if len(raw) < HEAD_LEN:
            raise ValueError("a damaged record")
        at = raw
        memcpy(numbers, at, 16)
        memcpy(&flags, at + 16, 4)
        memcpy(&length, at + 20, 2)
        found.version, found.expiry = be64toh(numbers[0]), be64toh(numbers[1])
        found.flags, found.length = ntohl(flags), ntohs(length)
        if len(raw) != HEAD_LEN + found.length:
            raise ValueError("a damaged record")
        return raw


cdef bint _is_alive(const Packed *found, double now, uint64_t latest) noexcept:
    """`base.alive`; the ordinary path counts impossible versions and tells of them."""
    if 0 < found.expiry and <double>found.expiry <= now:
        return False
    if found.flags & CERTIFIED_KINDS:
        return found.version >> KDHT_CERTIFIED_BIT != 0
    return found.version <= latest
