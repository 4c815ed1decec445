# cython: language_level=3
"""The cache of records, for the socket's loop, which runs without the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kdht.storage._hot cimport HotTable
from kdht.storage._members_cache cimport MembersCache


cdef extern from "kdht_cache.h" nogil:
    enum: KDHT_CACHE_SLOTS
    struct kdht_cache_set:
        uint32_t sequence
        uint32_t marks[1]  # KDHT_CACHE_SLOTS in the header
    struct kdht_cache_slot:
        uint8_t key[20]
        uint32_t length
        uint64_t version
        uint64_t expiry
        uint32_t flags
        uint32_t answers
        uint8_t value[1]  # KDHT_MAX_VALUE in the header


cdef uint32_t write_body(uint8_t *body, uint64_t version, uint64_t expiry, uint32_t flags,
                         const uint8_t *value, uint32_t length, double now) noexcept nogil


cdef uint32_t write_stored(uint8_t *body, uint64_t version, uint32_t expiry, uint32_t flags,
                           const uint8_t *value, uint32_t length) noexcept nogil


cdef class RecordCache:
    cdef readonly MembersCache members
    cdef kdht_cache_set *sets
    cdef kdht_cache_slot *slots  # `slots_per_set` of each set, one set after the other
    cdef uint32_t slots_per_set
    cdef uint64_t mask   # of the sets' number
    cdef uint64_t epoch  # steps with every clear
    cdef readonly HotTable hot  # or None
    cdef bint has_hot
    cdef uint64_t begun(self, bytes key) except? 0
    cpdef bint fill(self, bytes key, uint64_t begun, uint64_t version, uint64_t expiry, uint32_t flags,
                    bytes value) except -1
    cdef kdht_cache_set *_set(self, bytes key) except NULL
    cdef kdht_cache_set *_set_of(self, const uint8_t *key) noexcept nogil
    cdef int _find(self, const kdht_cache_set *set, const uint8_t *key) noexcept nogil
    cdef int _place(self, const kdht_cache_set *set, const uint8_t *key) noexcept
    cdef kdht_cache_slot *_slot(self, const kdht_cache_set *set, int place) noexcept nogil
    cdef int look_up(self, const uint8_t *key, double now, uint8_t *body) noexcept nogil
    cdef int look_up_stored(self, const uint8_t *key, double now, uint8_t *body) noexcept nogil
    cdef int _copy(self, const uint8_t *key, double now, uint8_t *body, bint stored) noexcept nogil
