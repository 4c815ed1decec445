# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""The cache of records: a GET for a cached record needs neither Python nor LevelDB.

Contract: bounded, and **exact**. Once `invalidate` has returned, the old record of the key is never given
out again. Who changes the store calls `invalidate` before it confirms the change. A reader of the store
calls `begin` first and `fill` afterwards; `fill` refuses if a key of the same set changed in between.

A key's set has KDHT_CACHE_SLOTS slots. A new record takes the place of an old one. A look-up or a change of
a key that is not cached touches the set alone and no slot: most writes are of that kind.

What is read most goes into the table of hot records too (_hot.pyx), from which the XDP program answers. It
holds nothing that was changed or cleared here since.

Writers hold the GIL. `look_up` runs without it beside them: each set has a sequence lock
(include/kdht_seqlock.h).
"""

from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kdht.storage._members_cache cimport MembersCache
from kdht.core._layout cimport (
    KDHT_ID_LEN, KDHT_MAX_BODY, KDHT_MAX_VALUE, KDHT_RECORD_LEN, htobe64, htonl, kdht_seq_begin,
    kdht_seq_open, kdht_seq_same, kdht_seq_step,
)

cdef enum:
    LARGEST_TTL = 0xFFFFFFFF
    HOT_ANSWERS = 16  # after so many answers a record is hot; a power of two


cdef uint32_t write_body(uint8_t *body, uint64_t version, uint64_t expiry, uint32_t flags,
                         const uint8_t *value, uint32_t length, double now) noexcept nogil:
    """Write the body of a GET's reply and give its length. Its TTL is the time left, at least a second."""
    cdef int64_t left = 0
    if expiry:
        # Rounded down, so that no copy outlives the record. Not 0, which means no end.
        left = min(max(<int64_t>expiry - <int64_t>ceil(now), <int64_t>1), <int64_t>LARGEST_TTL)
    (<uint64_t *>body)[0] = htobe64(version)
    (<uint32_t *>(body + 8))[0] = htonl(<uint32_t>left)
    (<uint32_t *>(body + 12))[0] = htonl(flags)
    memcpy(body + KDHT_RECORD_LEN, value, length)
    return KDHT_RECORD_LEN + length


cdef uint32_t write_stored(uint8_t *body, uint64_t version, uint32_t expiry, uint32_t flags,
                           const uint8_t *value, uint32_t length) noexcept nogil:
    """The same of a FETCH's reply, as nodes tell each other of a record."""
    (<uint64_t *>body)[0] = htobe64(version)
    (<uint32_t *>(body + 8))[0] = htonl(expiry)
    (<uint32_t *>(body + 12))[0] = htonl(flags)
    memcpy(body + KDHT_RECORD_LEN, value, length)
    return KDHT_RECORD_LEN + length


cdef class RecordCache:
    """A cache of at most `size` bytes. The pages are touched as records come in. Beside it are replies of
    MEMBERS (`members`).

    `hot`: the table of this cache's hot records, or None. Raises ValueError if not one record fits, and
    MemoryError.
    """

    def __cinit__(self, size: int, HotTable hot=None):
        self.hot, self.has_hot = hot, hot is not None
        each = <int>sizeof(kdht_cache_slot) + <int>sizeof(kdht_cache_set)
        if size < each:
            raise ValueError(f"one record takes {each} bytes, there are {size}")
        # A power of two, so that a mask chooses the set: a division would be the most expensive step of a
        # look-up.
        number = 1 << ((size // each).bit_length() - 1)
        self.slots_per_set = min(number, <int>KDHT_CACHE_SLOTS)
        self.mask = number // self.slots_per_set - 1
        # calloc: untouched pages take no memory, so an idle node does not pay for its cache.
        self.sets = <kdht_cache_set *>calloc(self.mask + 1, sizeof(kdht_cache_set))
        self.slots = <kdht_cache_slot *>calloc(number, sizeof(kdht_cache_slot))
        if self.sets is NULL or self.slots is NULL:
            raise MemoryError
        self.members = MembersCache()

    def __dealloc__(self):
        free(self.sets)
        free(self.slots)

    def begin(self, keys) -> list:
        """Call it before the store is read. For each 20-byte key the token that `fill` wants."""
        return [self.begun(key) for key in keys]

    cdef uint64_t begun(self, bytes key) except? 0:
        # With the epoch: after `clear` a sequence number alone could match again.
        return (self.epoch << 32) | kdht_seq_begin(&self._set(key).sequence)

    cpdef bint fill(self, bytes key, uint64_t begun, uint64_t version, uint64_t expiry, uint32_t flags,
                    bytes value) except -1:
        """Keep a record that was read after `begin` gave `begun`. False: it may be old, and is not kept."""
        cdef kdht_cache_set *set = self._set(key)
        cdef kdht_cache_slot *slot
        cdef int place
        # A change came between the read of the store and now: this record may be the old one.
        if (self.epoch << 32) | set.sequence != begun or len(value) > KDHT_MAX_VALUE:
            return False
        place = self._place(set, key)
        slot = self._slot(set, place)
        kdht_seq_open(&set.sequence)
        # Inside of the sequence lock, mark and key together: a reader between them would find another
        # key's record.
        set.marks[place] = mark(key)
        memcpy(slot.key, <const uint8_t *>key, KDHT_ID_LEN)
        slot.length, slot.version, slot.expiry, slot.flags = <uint32_t>len(value), version, expiry, flags
        slot.answers = 0
        memcpy(slot.value, <const uint8_t *>value, len(value))
        kdht_seq_step(&set.sequence)
        # A hot key stays hot when its record changes.
        if self.has_hot and self.hot.knows(key):
            self.hot.put(key, version, expiry, flags, value, slot.length)
        return True

    def invalidate(self, key: bytes) -> None:
        """The record of `key` in the store has changed. After this call the old one is never given out."""
        cdef kdht_cache_set *set = self._set(key)
        # The sequence steps even if the key is not cached: a read of the store that began before this
        # change must not be filled in.
        cdef int place = self._find(set, key)
        kdht_seq_open(&set.sequence)
        if place >= 0:
            set.marks[place] = 0
        kdht_seq_step(&set.sequence)
        # Whether it is cached or not: it may have lost its place here alone.
        if self.has_hot:
            self.hot.forget(key)

    def clear(self) -> None:
        """Forget all records and all replies of MEMBERS, and refuse every `fill` whose `begin` was before
        this.
        """
        cdef uint64_t i
        cdef uint32_t place
        # Fills that began before now are refused too, not only those of cached keys.
        self.epoch += 1
        self.members.clear()
        for i in range(self.mask + 1):
            kdht_seq_open(&self.sets[i].sequence)
            for place in range(self.slots_per_set):
                self.sets[i].marks[place] = 0
            kdht_seq_step(&self.sets[i].sequence)
        if self.has_hot:
            self.hot.forget_all()

    def heat(self, keys) -> None:
        """Put the cached records of these keys into the table of hot records."""
        cdef kdht_cache_set *set
        cdef kdht_cache_slot *slot
        cdef int place
        if not self.has_hot:
            return
        for key in keys:
            set = self._set(key)
            place = self._find(set, key)
            if place < 0:
                continue
            slot = self._slot(set, place)
            self.hot.put(key, slot.version, slot.expiry, slot.flags, slot.value, slot.length)

    def get(self, key: bytes, now: float):
        """The body of a GET's reply, or None. For tests: the socket's loop calls `look_up`."""
        cdef uint8_t body[KDHT_MAX_BODY]
        self._set(key)
        cdef int length = self.look_up(key, now, body)
        return None if length < 0 else body[:length]

    def get_stored(self, key: bytes, now: float):
        """The body of a FETCH's reply, or None. For tests."""
        cdef uint8_t body[KDHT_MAX_BODY]
        self._set(key)
        cdef int length = self.look_up_stored(key, now, body)
        return None if length < 0 else body[:length]

    cdef kdht_cache_set *_set(self, bytes key) except NULL:
        if len(key) != KDHT_ID_LEN:
            raise ValueError(f"a key has {KDHT_ID_LEN} bytes, not {len(key)}")
        return self._set_of(<const uint8_t *>key)

    cdef inline kdht_cache_set *_set_of(self, const uint8_t *key) noexcept nogil:
        cdef uint64_t number
        memcpy(&number, key + 8, 8)  # not the first bits: all keys of a node share them
        return &self.sets[number & self.mask]

    cdef inline kdht_cache_slot *_slot(self, const kdht_cache_set *set, int place) noexcept nogil:
        return &self.slots[<uint64_t>(set - self.sets) * self.slots_per_set + place]

    cdef inline int _find(self, const kdht_cache_set *set, const uint8_t *key) noexcept nogil:
        """The slot of the set that has the key; -1: none."""
        cdef uint32_t place
        for place in range(self.slots_per_set):
            if set.marks[place] == mark(key) and memcmp(self._slot(set, place).key, key, KDHT_ID_LEN) == 0:
                return place
        return -1

    cdef int _place(self, const kdht_cache_set *set, const uint8_t *key) noexcept:
        """The slot for a key: its own, or a free one, or each in turn."""
        cdef uint32_t place
        cdef int here = self._find(set, key)
        if here >= 0:
            return here
        for place in range(self.slots_per_set):
            if set.marks[place] == 0:
                return place
        # In turn, by the number of changes. Least recently used would need a write for each read, and
        # readers hold no lock.
        return (set.sequence >> 1) % self.slots_per_set

    cdef int look_up(self, const uint8_t *key, double now, uint8_t *body) noexcept nogil:
        """Write the body of a GET's reply and give its length; -1: not cached. `now`: Unix seconds."""
        return self._copy(key, now, body, False)

    cdef int look_up_stored(self, const uint8_t *key, double now, uint8_t *body) noexcept nogil:
        """The same for another node: a FETCH's reply has the expiry in place of the TTL."""
        return self._copy(key, now, body, True)

    cdef int _copy(self, const uint8_t *key, double now, uint8_t *body, bint stored) noexcept nogil:
        cdef kdht_cache_set *set = self._set_of(key)
        cdef uint32_t begun = kdht_seq_begin(&set.sequence)
        cdef kdht_cache_slot *slot
        cdef uint32_t length
        cdef int place
        # A writer is at work. The store has the answer too, so nobody waits here.
        if begun & 1:
            return -1
        place = self._find(set, key)
        if place < 0:
            return -1
        slot = self._slot(set, place)
        # A writer may change the slot at any moment. So the length is read once and checked, and whatever was
        # copied is thrown away below if the sequence has moved.
        length = slot.length
        if length > KDHT_MAX_VALUE or (slot.expiry and <double>slot.expiry <= now):
            return -1
        if not stored:
            length = write_body(body, slot.version, slot.expiry, slot.flags, slot.value, length, now)
        elif slot.expiry <= <uint64_t>LARGEST_TTL:
            length = write_stored(body, slot.version, <uint32_t>slot.expiry, slot.flags, slot.value, length)
        else:
            return -1
        if not kdht_seq_same(&set.sequence, begun):
            return -1
        # The program answers clients alone, so only their reads make a record hot.
        if self.has_hot and not stored:
            # Of a writer that is at work by now it may take the count for another record: no harm.
            slot.answers += 1
            if slot.answers % HOT_ANSWERS == 0:
                self.hot.note(key)
        return <int>length


cdef inline uint32_t mark(const uint8_t *key) noexcept nogil:
    """Some bits of the key, other than those that choose its set. Never 0, which marks an empty slot."""
    cdef uint32_t bits
    memcpy(&bits, key + 16, 4)
    return bits | 1
