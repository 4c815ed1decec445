# cython: language_level=3
"""How long other replicas take to answer, by op and address.

Contract: whoever calls has a turn.
"""

from kdht.node._roundtrip cimport RoundTrip

from kdht.histogram import Histogram

MAX_ADDRESSES = 4096
cdef Py_ssize_t MOST = MAX_ADDRESSES


cdef class Trips:
    """Of one node, for these `ops`. `round_trips`: a Histogram for each."""

    def __cinit__(self, ops):
        self.round_trips = {op: Histogram() for op in ops}
        self.by_address = {}

    cdef RoundTrip of(self, op, address):
        place = op, address
        trip = self.by_address.get(place)
        if trip is None:
            # Nodes come and go for years. A forgotten address starts again with the first time-out.
            if len(self.by_address) >= MOST:
                del self.by_address[next(iter(self.by_address))]
            trip = self.by_address[place] = RoundTrip()
        return trip

    def trip(self, op, address):
        """How long this node takes to answer."""
        return self.of(op, address)

    cpdef took(self, op, address, double rtt):
        """Note how long an answer took."""
        self.of(op, address).sample(rtt)
        self.round_trips[op].observe(rtt)
