"""Round trips to other replicas (see _trips.pyx)."""

from kdht.node._roundtrip cimport RoundTrip


cdef class Trips:
    cdef readonly dict round_trips
    cdef dict by_address

    cdef RoundTrip of(self, op, address)
    cpdef took(self, op, address, double rtt)
