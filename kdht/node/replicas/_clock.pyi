"""The typed surface of _clock.pyx."""

from kdht.times import SteadyTime, UnixTime

MAX_LEAP: float

class HybridClock:
    last: int
    """The last version given or seen."""
    def next(self, now: UnixTime, above: int = 0) -> int: ...
    def seen(self, version: int, now: UnixTime) -> None: ...

class SteadyClock:
    def at(self, now: UnixTime) -> SteadyTime: ...
