"""Durations, counted by size: what quantiles are estimated from.

Contract: thread-safe; an observation costs a lock and a bisection. Sizes are cumulative only where
they are told, in `snapshot`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

BOUNDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Seconds: each size class ends with its bound; one more holds what is longer than the last."""


class Snapshot(NamedTuple):
    """`counts` has one number more than `bounds`; `total` is the sum of all durations, seconds."""

    bounds: Sequence[float]
    counts: list[int]
    total: float


class Histogram:
    """Durations in seconds."""

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._lock = Lock()

    def observe(self, seconds: float, times: int = 1) -> None:
        """Something took so long, `times` times."""
        place = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[place] += times
            self._total += seconds * times

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(self._bounds, self._counts.copy(), self._total)
