"""The clocks of a coordinator (see _clock.pyx)."""

from libc.stdint cimport int64_t


cdef class HybridClock:
    cdef readonly int64_t last
    cdef object lock


cdef class SteadyClock:
    cdef object offset
    cdef double steady

    cpdef double at(self, double now)
