# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""A bounded memory of messages, each by 60 bits of its tag or of another mark; no GIL.

Contract: one thread. A mark is forgotten when others take its place, at the earliest after WAYS others of
its set. Two different messages share a mark once in 2^60.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    SETS_BITS = 13
    WAYS = 4
    COUNT_MASK = 15


cdef class Seen:
    """One engine's."""

    def __cinit__(self):
        self.marks = <uint64_t *>calloc(WAYS << SETS_BITS, sizeof(uint64_t))
        if self.marks is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.marks)

    cdef uint32_t note(self, uint64_t mark) noexcept nogil:
        cdef uint64_t *first = &self.marks[WAYS * ((mark * <uint64_t>0x9e3779b97f4a7c15) >> (64 - SETS_BITS))]
        cdef uint32_t count
        cdef int i
        for i in range(WAYS):
            # Four bits count, and 60 tell messages apart: a word of 64 bits is read and written at once.
            if (first[i] ^ mark) & ~<uint64_t>COUNT_MASK == 0 and first[i]:
                count = first[i] & COUNT_MASK
                if count < COUNT_MASK:
                    first[i] += 1
                return count
        # In turn: the oldest of the set goes, without a time for each.
        self.turn = (self.turn + 1) % WAYS
        first[self.turn] = (mark & ~<uint64_t>COUNT_MASK) | 1
        return 0
