"""The hybrid logical clock that versions come from.

It follows the versions of others, but only so far: else one lie would put all later versions beyond what any clock may say.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks and Consistent Snapshots in Globally Distributed
Databases", 2014. Both parts are in one number here, as section 6 of the paper allows: microseconds of Unix time, counted on
if the clock stands still or is behind.
"""

from threading import Lock

from kdht.storage.versions import micros
from kdht.times import SteadyTime, UnixTime
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_CLOCK_ERROR


class HybridClock:
    """Rising versions, above all that were seen and are at most MAX_CLOCK_ERROR ahead of the time. Thread-safe."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()

    def next(self, now: UnixTime, above: int = 0) -> int:
        """A version above all earlier ones, and above the version `above`, which the clock does not follow."""
        time = micros(now)
        with self._lock:
            # Counted on if the clock stands still or went back a little: no version is given twice.
            self._last = max(time, min(self._last, time + MAX_CLOCK_ERROR) + 1)
            # No ordinary record has a version that high: it is a lie, or the key is self-certified.
            return max(self._last, above + 1) if above < CERTIFIED else self._last

    def seen(self, version: int, now: UnixTime) -> None:
        """Note a version of another node or of the own disk. That of a self-certified record is beyond every time."""
        if version <= micros(now) + MAX_CLOCK_ERROR:
            with self._lock:
                self._last = max(self._last, version)


# Time-outs of calls are shorter, so a step of the wall clock ends none of them early by much.
MAX_LEAP = 1.0


class SteadyClock:
    """Makes steady time of Unix time. It never runs backwards, and leaps at most one second at a time.

    So a step of the wall clock neither stalls nor fires a time-out. A time a little behind an earlier one changes nothing.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._steady = 0.0

    def at(self, now: UnixTime) -> SteadyTime:
        """The steady time for `now`, Unix seconds."""
        # The first time is second 0.
        if self._offset is None:
            self._offset = now
        leap = now - self._offset - self._steady
        if -MAX_LEAP <= leap <= MAX_LEAP:
            self._steady += max(leap, 0.0)
        else:
            self._steady += MAX_LEAP if leap > 0 else 0.0
            self._offset = now - self._steady
        return SteadyTime(self._steady)
