# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""Which keys have a record on disk: a bounded multi-set of 32-bit marks, one of each key.

A read of an absent key costs LevelDB a look into each level, and for every few thousand of them it merges
tables. Each PUT of a new key is such a read. Here it costs one look into a hash table.

Contract: `may_have` is False only for a key without a record. A mark is a keyed hash, so that nobody can
choose keys which share one. Of n keys the part n / 2^32 of all absent keys is taken for present, and asked of
LevelDB. The GIL guards it. The keys come in by a walk over the database, in the order of the keys, and by the
writes behind the walk.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kdht.core._layout cimport kdht_siphash

cdef enum:
    FIRST_SLOTS = 1 << 10   # 4 KiB: an idle node stays small
    FULLEST_QUARTERS = 3    # of four; above it runs of taken slots become long

MOST_KEYS = 3 << 22
"""12.6 million, with 64 MiB of marks. Beyond it, every key is asked of LevelDB."""


cdef class KnownKeys:
    """`most`: keys beyond which nothing is known any more, so that the memory is bounded."""

    def __cinit__(self, most: int = MOST_KEYS):
        self.mask, self.most = FIRST_SLOTS - 1, most
        self.slots = <uint32_t *>calloc(FIRST_SLOTS, sizeof(uint32_t))
        if self.slots is NULL:
            raise MemoryError
        seed = os.urandom(16)
        memcpy(&self.seed0, <const uint8_t *>seed, 8)
        memcpy(&self.seed1, <const uint8_t *>seed + 8, 8)
        self._walked, self._complete, self.given_up = b"", False, False

    def __dealloc__(self):
        free(self.slots)

    @property
    def walked(self) -> bytes:
        """The keys below this one are known. The next slice of the walk begins here."""
        return self._walked

    @property
    def complete(self) -> bool:
        """Whether the walk has ended."""
        return self._complete or self.given_up

    cpdef bint may_have(self, bytes key) except -1:
        """Whether there may be a record of `key`. False is certain."""
        cdef uint32_t mark
        cdef uint64_t at
        if self.given_up or not self._is_walked(key):
            return True
        mark = self._mark(key)
        at = mark & self.mask
        while self.slots[at]:
            if self.slots[at] == mark:
                return True
            at = (at + 1) & self.mask
        return False

    def add(self, bytes key not None) -> None:
        """Before a key's first record is written. One that the walk has yet to meet is left to the walk."""
        if not self.given_up and self._is_walked(key):
            self._insert(self._mark(key))

    def remove(self, bytes key not None) -> None:
        """After a key's record was removed."""
        cdef uint32_t mark
        cdef uint64_t at, hole, home
        if self.given_up or not self._is_walked(key):
            return
        mark = self._mark(key)
        at = mark & self.mask
        while self.slots[at] != mark:
            if not self.slots[at]:
                return
            at = (at + 1) & self.mask
        # What was pushed on behind it moves back, so that a search never stops at a hole too early.
        hole = at
        while True:
            at = (at + 1) & self.mask
            if not self.slots[at]:
                break
            home = self.slots[at] & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.slots[hole] = self.slots[at]
                hole = at
        self.slots[hole] = 0
        self.count -= 1

    def walk(self, keys: list, bytes onwards) -> None:
        """The next slice of the walk: all keys from `walked` on, below `onwards`; None: all that are left."""
        for key in keys:
            if self.given_up:
                return
            self._insert(self._mark(key))
        # Not before: until then a write of one of them is none of ours.
        if onwards is None:
            self._complete = True
        else:
            self._walked = onwards

    def give_up(self) -> None:
        """From now on every key may have a record."""
        self._forget()

    cdef void _forget(self) noexcept:
        self.given_up = True
        free(self.slots)
        self.slots, self.count = NULL, 0

    cdef bint _is_walked(self, bytes key) noexcept:
        cdef Py_ssize_t shorter
        cdef int order
        if self._complete:
            return True
        shorter = min(len(key), len(self._walked))
        order = memcmp(<const uint8_t *>key, <const uint8_t *>self._walked, shorter)
        return order < 0 or (order == 0 and len(key) < len(self._walked))

    cdef uint32_t _mark(self, bytes key) noexcept:
        # 0 is a free slot.
        return <uint32_t>kdht_siphash(self.seed0, self.seed1, key, <uint32_t>len(key)) or 1

    cdef void _insert(self, uint32_t mark) noexcept:
        cdef uint64_t at
        if self.count >= self.most:
            self._forget()
            return
        if 4 * (self.count + 1) > FULLEST_QUARTERS * (self.mask + 1) and not self._grow():
            # Without memory a write must go on.
            self._forget()
            return
        at = mark & self.mask
        while self.slots[at]:
            at = (at + 1) & self.mask
        self.slots[at] = mark
        self.count += 1

    cdef bint _grow(self) noexcept:
        cdef uint32_t *old = self.slots
        cdef uint64_t i, at, size = self.mask + 1
        self.slots = <uint32_t *>calloc(2 * size, sizeof(uint32_t))
        if self.slots is NULL:
            self.slots = old
            return False
        self.mask = 2 * size - 1
        for i in range(size):
            if old[i]:
                at = old[i] & self.mask
                while self.slots[at]:
                    at = (at + 1) & self.mask
                self.slots[at] = old[i]
        free(old)
        return True
