"""How many records are missing here, and how long they will take, from what other nodes reported."""

from collections import deque
from collections.abc import Collection

from kdht.node.repair.ranges import Range
from kdht.times import SteadyTime

SAMPLES = 32
HORIZON = 30.0
"""Seconds over which the speed is taken."""


class Progress:
    """One node's."""

    def __init__(self) -> None:
        self._gaps: dict[Range, int] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def heard(self, range: Range, own: int, theirs: int, now: SteadyTime) -> None:
        """Note the numbers of records in a range, at this node and at one that has caught up."""
        self._gaps[range] = max(theirs - own, 0)
        self._samples.append((now, sum(self._gaps.values())))

    def only(self, ranges: Collection[Range]) -> None:
        """Forget all ranges but these."""
        self._gaps = {range: gap for range, gap in self._gaps.items() if range in ranges}

    @property
    def missing(self) -> int:
        """Records."""
        return sum(self._gaps.values())

    def seconds_left(self, now: SteadyTime) -> float | None:
        """Seconds at the recent speed, None while that is unknown."""
        missing = self.missing
        while len(self._samples) > 1 and self._samples[0][0] < now - HORIZON:
            self._samples.popleft()
        if not missing:
            return 0.0
        if len(self._samples) < 2:
            return None
        # From the most that was missing: while the first reports come in, the number still grows.
        then, before = max(self._samples, key=lambda sample: sample[1])
        gone, seconds = before - missing, now - then
        return missing / gone * seconds if gone > 0 and seconds > 0 else None
