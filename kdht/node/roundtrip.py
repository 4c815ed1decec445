"""How long an answer takes, from measured round trips (RFC 6298, section 2)."""


class RoundTrip:
    """The smoothed round-trip time to one place, seconds; None before the first sample."""

    __slots__ = ("rtt", "variation")

    def __init__(self) -> None:
        self.rtt: float | None = None
        self.variation = 0.0

    def sample(self, rtt: float) -> None:
        """Take in one measured round trip, seconds."""
        if self.rtt is None:
            self.rtt, self.variation = rtt, rtt / 2
            return
        # The variation first, with the old mean, as RFC 6298 has it.
        self.variation += (abs(self.rtt - rtt) - self.variation) / 4
        self.rtt += (rtt - self.rtt) / 8

    def timeout(self, first: float, least: float, most: float) -> float:
        """How long to wait for an answer, within bounds; `first` before any sample."""
        if self.rtt is None:
            return first
        return min(max(self.rtt + 4 * self.variation, least), most)
