# cython: language_level=3
"""The table of hot records: written here, read by the XDP program."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "kdht_hot.h" nogil:
    enum:
        KDHT_HOT_SETS
        KDHT_HOT_WAYS
        KDHT_HOT_KEY_WORDS
        KDHT_HOT_VALUE_WORDS
        KDHT_HOT_ASKS
        KDHT_HOT_ENDED
    struct kdht_hot_slot:
        uint64_t key[3]
        uint64_t version
        uint64_t expiry
        uint64_t sum
        uint32_t flags
        uint32_t length
        uint64_t value[138]
    struct kdht_hot_set:
        uint32_t sequence
        uint32_t valid
        uint8_t used[4]
        kdht_hot_slot slots[4]
    struct kdht_hot_table:
        uint64_t loop_until
        uint64_t node_until
        uint64_t drained
        uint32_t forbidden
        kdht_hot_set sets[1]
    uint32_t kdht_hot_set_of(uint64_t second_word)

cdef enum:
    NOTED = 64  # keys that wait to be put into the table


cdef class HotTable:
    cdef kdht_hot_table *table  # NULL until it is opened; then for good
    cdef object memory
    cdef uint32_t forbidden
    cdef uint8_t ring[NOTED][20]
    cdef uint32_t noted         # how many keys were noted since the start; the loop's thread writes it
    cdef uint32_t taken         # and how many of them were taken
    # For the socket's loop, without the GIL.
    cdef void note(self, const uint8_t *key) noexcept nogil
    cdef void renew(self, uint64_t until) noexcept nogil
    cdef void note_drained(self, uint64_t moment) noexcept nogil
    # For the cache, with the GIL.
    cdef bint knows(self, const uint8_t *key) noexcept
    cdef void put(self, const uint8_t *key, uint64_t version, uint64_t expiry, uint32_t flags,
                  const uint8_t *value, uint32_t length) noexcept
    cdef void forget(self, const uint8_t *key) noexcept
    cdef void forget_all(self) noexcept
    cdef kdht_hot_set *_set_of(self, const uint8_t *key) noexcept
    cdef int _way(self, const uint8_t *key) noexcept
    cdef int _place(self, kdht_hot_set *set) noexcept
