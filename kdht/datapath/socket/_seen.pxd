# cython: language_level=3
"""Messages that were seen already."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef class Seen:
    cdef uint64_t *marks
    cdef uint32_t turn
    # How often this mark was seen before, as far as is known, at most 15; it is noted.
    cdef uint32_t note(self, uint64_t mark) noexcept nogil
