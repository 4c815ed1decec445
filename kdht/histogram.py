"""Durations, counted by size: what quantiles are estimated from.

Contract: thread-safe; an observation costs a bisection. Sizes are cumulative only where they are told.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kdht._histogram import BOUNDS, SizeCounts

__all__ = ["BOUNDS", "Histogram", "Snapshot"]


class Snapshot(NamedTuple):
    """`counts` has one number more than `bounds`; `total` is the sum of all durations, seconds."""

    bounds: Sequence[float]
    counts: list[int]
    total: float


class Histogram(SizeCounts):
    """Durations in seconds. `observe` counts one, or several of the same length."""

    def snapshot(self) -> Snapshot:
        return Snapshot(self.bounds, *self.sums())
