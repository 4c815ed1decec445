# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Finished replies of MEMBERS: a reader of a hot set needs neither Python nor the index.

Contract: bounded, and **exact**, as the cache of records is. Once `changed` has returned, no reply from
before the change is given out again. Who changes a set calls `changed` when its members in memory are the
new ones, and before the change is confirmed. A reader calls `begin` before it looks at them and `keep`
afterwards; `keep` refuses if the set changed in between. A reply ends with the first record of its set: from
then on their number is another.

Kept are entries with their expiry in the place of the seconds left, which `look_up` writes into its copy.

Sets with a common hash share a generation: a change of one drops the other's replies too. Writers hold the
GIL. `look_up` runs without it beside them: each reply has a sequence lock (include/kdht_seqlock.h).
"""

from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kdht.core._layout cimport (
    KDHT_ID_LEN, KDHT_MAX_BODY, htonl, kdht_seq_begin, kdht_seq_open, kdht_seq_same, kdht_seq_step, ntohl,
    ntohs,
)

from kdht.wire import sets

cdef enum:
    GENERATIONS = 4096  # a power of two
    SLOTS = 2048        # a power of two; 2.4 MB, whose pages are touched as replies come in
    COUNT = 0xFFFFFFFF  # in place of a part: the slot has the number of parts
    HEAD_LEN = 16       # of a reply
    ENTRY_LEN = 14      # before a payload
    TTL_AT = 8
    LENGTH_AT = 12

if (sets.HEAD_LEN, sets.ENTRY_LEN, sets.ANYWHERE) != (HEAD_LEN, ENTRY_LEN, 0):
    raise ImportError("the form of a MEMBERS' reply has changed: change _members_cache.pyx too")
if KDHT_ID_LEN != KEY_LEN:
    raise ImportError("the length of a key has changed: change _members_cache.pxd too")


cpdef uint32_t drawn_part(uint64_t chance, uint32_t parts) noexcept nogil:
    """The part of a set, of so many, that a question gets. `chance`: its request ID, which is random."""
    # From the question, so that whoever answers draws the same part: parts that are kept are no more likely.
    return <uint32_t>((mixed(chance) >> 32) * parts >> 32)


cdef inline uint64_t mixed(uint64_t number) noexcept nogil:
    """A step of SplitMix64 (Steele and others, "Fast Splittable Pseudorandom Number Generators", 2014)."""
    number += 0x9E3779B97F4A7C15ULL
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9ULL
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBULL
    return number ^ (number >> 31)


cdef inline uint64_t shared_bits(const uint8_t *key) noexcept nogil:
    """The first 8 bytes: those that a set's key and its members' have in common."""
    cdef uint64_t bits
    memcpy(&bits, key, 8)
    return bits


cdef class MembersCache:
    """SLOTS replies. Raises MemoryError."""

    def __cinit__(self):
        self.generations = <uint32_t *>calloc(GENERATIONS, sizeof(uint32_t))
        self.slots = <KeptReply *>calloc(SLOTS, sizeof(KeptReply))
        self.bodies = <uint8_t *>calloc(SLOTS, KDHT_MAX_BODY)
        if self.generations is NULL or self.slots is NULL or self.bodies is NULL:
            raise MemoryError
        # So that no empty slot is of the present.
        self.clear()

    def __dealloc__(self):
        free(self.generations)
        free(self.slots)
        free(self.bodies)

    def begin(self, bytes key not None) -> int:
        """Call it before the members of the set are looked at: the token that `keep` wants."""
        _check(key)
        return kdht_seq_begin(self._generation(key))

    def keep(
        self, bytes key not None, begun: int, cursor: int, part: int, parts: int, until: int,
        bytes body not None,
    ) -> bool:
        """Keep a reply. False: it may be old, and is not kept.

        `part`, of `parts`: of a reply to cursor ANYWHERE. `until`: the earliest expiry of the set's records.
        `body`: the reply's, with expiries in place of seconds left.
        """
        _check(key)
        if kdht_seq_begin(self._generation(key)) != begun or not HEAD_LEN <= len(body) <= KDHT_MAX_BODY:
            return False
        if cursor == 0:
            self._keep(key, 0, COUNT, until, (<uint32_t>parts).to_bytes(4, "little"))
        self._keep(key, cursor, part, until, body)
        return True

    def changed(self, bytes key not None) -> None:
        """A record of this key has changed, or a member of the set of this key. Older replies end."""
        _check(key)
        kdht_seq_step(self._generation(key))

    def clear(self) -> None:
        """Forget all replies, and refuse every `keep` whose `begin` was before this."""
        cdef int i
        for i in range(GENERATIONS):
            kdht_seq_step(&self.generations[i])

    def get(self, bytes key not None, cursor: int, chance: int, room: int, now: float):
        """The body of a reply of at most `room` bytes, or None. For tests: the socket's loop calls
        `look_up`.
        """
        cdef uint8_t body[KDHT_MAX_BODY]
        _check(key)
        cdef int length = self.look_up(key, cursor, chance, room, now, body)
        return None if length < 0 else body[:length]

    cdef uint32_t *_generation(self, const uint8_t *key) noexcept nogil:
        return &self.generations[mixed(shared_bits(key)) & (GENERATIONS - 1)]

    cdef uint64_t _place(self, const uint8_t *key, uint64_t cursor, uint32_t part) noexcept nogil:
        """The number of a reply's slot."""
        cdef uint64_t rest
        memcpy(&rest, key + 8, 8)
        return mixed(shared_bits(key) ^ mixed(rest ^ mixed(cursor ^ part))) & (SLOTS - 1)

    cdef int _keep(self, bytes key, uint64_t cursor, uint32_t part, uint64_t until, bytes body) except -1:
        cdef uint64_t place = self._place(key, cursor, part)
        cdef KeptReply *slot = &self.slots[place]
        kdht_seq_open(&slot.sequence)
        slot.generation = self._generation(key)[0]
        slot.cursor, slot.part, slot.until, slot.length = cursor, part, until, <uint32_t>len(body)
        memcpy(slot.key, <const uint8_t *>key, KEY_LEN)
        memcpy(self.bodies + place * KDHT_MAX_BODY, <const uint8_t *>body, len(body))
        kdht_seq_step(&slot.sequence)
        return 0

    cdef int _copy(self, const uint8_t *key, uint64_t cursor, uint32_t part, uint32_t generation,
                   double now, uint8_t *body) noexcept nogil:
        """Copy a kept body and give its length; -1: it is not here, or old."""
        cdef uint64_t place = self._place(key, cursor, part)
        cdef KeptReply *slot = &self.slots[place]
        cdef uint32_t begun = kdht_seq_begin(&slot.sequence)
        cdef uint32_t length = slot.length
        # A writer may be at work, or begin at any moment. Then what was copied is thrown away below.
        if begun & 1 or length > KDHT_MAX_BODY or slot.generation != generation:
            return -1
        if slot.cursor != cursor or slot.part != part or <double>slot.until <= now:
            return -1
        if memcmp(slot.key, key, KEY_LEN) != 0:
            return -1
        memcpy(body, self.bodies + place * KDHT_MAX_BODY, length)
        return <int>length if kdht_seq_same(&slot.sequence, begun) else -1

    cdef int look_up(self, const uint8_t *key, uint64_t cursor, uint64_t chance, uint32_t room,
                     double now, uint8_t *body) noexcept nogil:
        """Write the body of a reply and give its length; -1: none is kept. `chance`: as in `drawn_part`."""
        # First, so that a change behind this look leads to a reply from before it, as if it had come later.
        cdef uint32_t generation = kdht_seq_begin(self._generation(key))
        cdef uint32_t part = 0, parts
        cdef int length
        if cursor == 0:
            if self._copy(key, 0, COUNT, generation, now, body) != sizeof(parts):
                return -1
            memcpy(&parts, body, sizeof(parts))
            part = drawn_part(chance, parts)
        length = self._copy(key, cursor, part, generation, now, body)
        if length < HEAD_LEN or <uint32_t>length > room:
            return -1
        _write_seconds_left(body, <uint32_t>length, now)
        return length


cdef void _write_seconds_left(uint8_t *body, uint32_t length, double now) noexcept nogil:
    """In place of each entry's expiry: at least a second, and no copy outlives its record."""
    cdef uint32_t at = HEAD_LEN, number
    cdef uint16_t size
    cdef int64_t left
    while at + ENTRY_LEN <= length:
        memcpy(&number, body + at + TTL_AT, 4)
        left = max(<int64_t>ntohl(number) - <int64_t>ceil(now), <int64_t>1)
        number = htonl(<uint32_t>left)
        memcpy(body + at + TTL_AT, &number, 4)
        memcpy(&size, body + at + LENGTH_AT, 2)
        at += ENTRY_LEN + ntohs(size)


cdef int _check(bytes key) except -1:
    if len(key) != KEY_LEN:
        raise ValueError(f"a key has {KEY_LEN} bytes, not {len(key)}")
    return 0
