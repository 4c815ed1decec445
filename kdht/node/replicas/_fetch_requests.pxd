# cython: language_level=3
"""A replica's part of a read (see _fetch_requests.pyx)."""

from libc.stdint cimport uint8_t, uint32_t

from kdht.core._layout cimport kdht_header
from kdht._routing cimport Core
from kdht.storage._reader cimport StoreReader


cdef class FetchRequests:
    cdef Core core
    cdef frozenset own
    cdef StoreReader reader
    cdef object is_caught_up, holds, counters

    cdef object answer(self, request, double now)
    cdef bint _is_sound(self, const kdht_header *header, request) except -1
    cdef object _sealed(self, const kdht_header *asked, request, uint8_t status, bytes body, uint32_t now)
