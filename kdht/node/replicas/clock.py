"""The hybrid logical clock that versions come from.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks and Consistent Snapshots in
Globally Distributed Databases", 2014; here with both parts in one number, as the paper's section 6
allows: microseconds of Unix time, counted on where the clock stands still or is behind.
"""

from threading import Lock

from kdht.times import SteadyTime


class HybridClock:
    """Versions that rise, and are above all that were seen. Thread-safe."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()

    def next(self, now: float) -> int:
        """A version above all before it; `now` is Unix seconds."""
        with self._lock:
            self._last = max(int(now * 1_000_000), self._last + 1)
            return self._last

    def seen(self, version: int) -> None:
        """Another node, or the own disk, has this version."""
        with self._lock:
            self._last = max(self._last, version)


MAX_LEAP = 1.0


class SteadyClock:
    """Seconds that never run backwards and leap at most one at a time, made of Unix time.

    So a step of the wall clock neither stalls nor fires a time-out. Times that are told late, a little
    behind those told before, change nothing.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._steady = 0.0

    def at(self, now: float) -> SteadyTime:
        """The steady time for `now`, Unix seconds."""
        if self._offset is None:
            self._offset = now
        leap = now - self._offset - self._steady
        if -MAX_LEAP <= leap <= MAX_LEAP:
            self._steady += max(leap, 0.0)
        else:
            self._steady += MAX_LEAP if leap > 0 else 0.0
            self._offset = now - self._steady
        return SteadyTime(self._steady)
