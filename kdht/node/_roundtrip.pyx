# cython: language_level=3
"""How long an answer takes, from measured round trips (RFC 6298, section 2)."""


cdef class RoundTrip:
    """The smoothed round-trip time to one place, seconds; None before the first sample."""

    def __cinit__(self, *_, **__):
        self.known, self.smoothed, self.variation = False, 0.0, 0.0

    @property
    def rtt(self):
        return self.smoothed if self.known else None

    cpdef sample(self, double rtt):
        """Take in one measured round trip, seconds."""
        if not self.known:
            self.known, self.smoothed, self.variation = True, rtt, rtt / 2
            return
        # The variation first, with the old mean, as RFC 6298 has it.
        self.variation += (abs(self.smoothed - rtt) - self.variation) / 4
        self.smoothed += (rtt - self.smoothed) / 8

    cpdef double timeout(self, double first, double least, double most):
        """How long to wait for an answer, within bounds; `first` before any sample."""
        if not self.known:
            return first
        return min(max(self.smoothed + 4 * self.variation, least), most)
