"""How many requests a client may send. include/kdht_rate.h has the buckets, nft/kdht.nft the same as rules."""

from typing import NamedTuple

from kdht.wire._shared import COSTLY_WEIGHT, RATE_SECOND


class ClientRates(NamedTuple):
    """Requests a second from one address, 0 for no limit."""

    reads: int = 0
    """GETs. A QUORUM_GET, WATCH or TRACE costs more, so of these there may be COSTLY_WEIGHT times fewer."""
    writes: int = 0

    @property
    def costly(self) -> int:
        # At least one: a low rate for GETs must not forbid watches altogether.
        return max(self.reads // COSTLY_WEIGHT, 1) if self.reads else 0

    def prices(self) -> tuple[int, int, int]:
        """struct kdht_rates: nanoseconds for each GET, costly read and write; 0 for no limit."""
        reads, costly, writes = (
            RATE_SECOND // rate if rate else 0 for rate in (self.reads, self.costly, self.writes)
        )
        return reads, costly, writes


NO_LIMITS = ClientRates()
