"""Smoothed round-trip times (see _roundtrip.pyx)."""


cdef class RoundTrip:
    cdef bint known
    cdef double smoothed
    cdef readonly double variation

    cpdef sample(self, double rtt)
    cpdef double timeout(self, double first, double least, double most)
