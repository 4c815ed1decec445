# cython: language_level=3
"""Messages that were seen already."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kdht.core._reply cimport Request

cdef class Seen:
    cdef uint64_t *marks
    cdef uint32_t turn
    # How often this mark was seen before, as far as is known, at most 15; it is noted.
    cdef uint32_t note(self, uint64_t mark) noexcept nogil

cdef class Replays:
    cdef Seen members, clients
    cdef uint64_t seed0, seed1
    # Whether this valid message came too often already; it is noted.
    cdef bint is_copy(self, const uint8_t *data, uint32_t length, const Request *came,
                      uint32_t second) noexcept nogil
    # Whether an ICMP error quoted this header of a member's already; it is noted.
    cdef bint is_known_quote(self, const uint8_t *data) noexcept nogil
    cdef uint64_t _mark_of(self, const uint8_t *data, uint32_t length, const Request *came,
                           uint32_t second) noexcept nogil
