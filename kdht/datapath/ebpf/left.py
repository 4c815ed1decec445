"""How many of the packets that the XDP program sends do leave, by the interfaces' own counts.

Neither count is enough. Some drivers do not count as sent what a program sends, and others drop packets that are not
ours. So a packet counts as lost only if it is missing among those sent, and an interface dropped one.

Contract: one thread.
"""

from kdht.datapath.departures import Departed
from kdht.datapath.host.links import Sent


class LeftCounts:
    """Of one program."""

    def __init__(self) -> None:
        self._before: tuple[int, Sent] | None = None
        self._lost = 0

    def departed(self, verdicts: int, links: Sent) -> Departed:
        """`verdicts`: packets that the program has sent so far. `links`: what its interfaces have counted so far."""
        if self._before is not None:
            verdicts_before, links_before = self._before
            # What programs send leaves by the same interfaces, and would hide what is missing.
            expected = verdicts - verdicts_before + links.local - links_before.local
            missing = expected - (links.packets - links_before.packets)
            # Counts that went back are those of other interfaces, or of one that was made again.
            self._lost += max(min(missing, links.dropped - links_before.dropped), 0)
        self._before = verdicts, links
        return Departed(verdicts, verdicts - self._lost)
