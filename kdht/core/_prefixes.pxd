# cython: language_level=3
"""Which addresses may send requests."""

from libc.stdint cimport uint8_t, uint32_t

from kdht.core._layout cimport kdht_region

# KDHT_MAY_READ and KDHT_MAY_WRITE of a 16-byte address. 0 while the table is being exchanged all the time.
cdef uint32_t rights_of(const kdht_region *region, const uint8_t *ip) noexcept nogil

cdef int write_prefixes(kdht_region *region, prefixes) except -1
cdef list read_prefixes(const kdht_region *region)
