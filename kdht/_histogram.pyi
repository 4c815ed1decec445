"""The typed surface of _histogram.pyx."""

from collections.abc import Sequence

BOUNDS: tuple[float, ...]

class SizeCounts:
    bounds: Sequence[float]
    def __init__(self, bounds: Sequence[float] = ...) -> None: ...
    def observe(self, seconds: float, times: int = 1) -> None: ...
    def sums(self) -> tuple[list[int], float]: ...
