"""The parts of a coordinator that are in Cython, in plain Python: the tests hold one against the other."""

from bisect import bisect_left
from typing import Any, Generic, TypeVar

from kdht.histogram import BOUNDS
from kdht.storage import StoredRecord
from kdht.storage.versions import micros
from kdht.times import SteadyTime, UnixTime
from kdht.wire._shared import TRY_BITS, Status
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_CLOCK_ERROR

SECONDS = 60.0
MOST = 16384
MAX_LEAP = 1.0
Entry = TypeVar("Entry")
Name = tuple[bytes, int]


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.total += seconds * times


class RoundTrip:
    def __init__(self) -> None:
        self.rtt: float | None = None
        self.variation = 0.0

    def sample(self, rtt: float) -> None:
        if self.rtt is None:
            self.rtt, self.variation = rtt, rtt / 2
            return
        # The variation first, with the old mean, as RFC 6298 has it.
        self.variation += (abs(self.rtt - rtt) - self.variation) / 4
        self.rtt += (rtt - self.rtt) / 8

    def timeout(self, first: float, least: float, most: float) -> float:
        if self.rtt is None:
            return first
        return min(max(self.rtt + 4 * self.variation, least), most)


class HybridClock:
    def __init__(self) -> None:
        self._last = 0

    def next(self, now: UnixTime, above: int = 0) -> int:
        time = micros(now)
        # Counted on if the clock stands still or went back a little: no version is given twice.
        self._last = max(time, min(self._last, time + MAX_CLOCK_ERROR) + 1)
        # No ordinary record has a version that high: it is a lie, or the key is self-certified.
        return max(self._last, above + 1) if above < CERTIFIED else self._last

    def seen(self, version: int, now: UnixTime) -> None:
        if version <= micros(now) + MAX_CLOCK_ERROR:
            self._last = max(self._last, version)


class SteadyClock:
    def __init__(self) -> None:
        self._offset: float | None = None
        self._steady = 0.0

    def at(self, now: UnixTime) -> SteadyTime:
        if self._offset is None:
            self._offset = now
        leap = now - self._offset - self._steady
        if -MAX_LEAP <= leap <= MAX_LEAP:
            self._steady += max(leap, 0.0)
        else:
            self._steady += MAX_LEAP if leap > 0 else 0.0
            self._offset = now - self._steady
        return SteadyTime(self._steady)


class Generations(Generic[Entry]):
    def __init__(self) -> None:
        self._new: dict[Name, Entry] = {}
        self._old: dict[Name, Entry] = {}
        self._begun = UnixTime(0.0)

    def get(self, name: Name) -> Entry | None:
        entry = self._new.get(name)
        return self._old.get(name) if entry is None else entry

    def put(self, name: Name, entry: Entry, now: UnixTime) -> None:
        if len(self._new) >= MOST or not 0 <= now - self._begun < SECONDS:
            self._old, self._new = self._new, {}
            self._begun = now
        self._new[name] = entry


class Recent:
    def __init__(self) -> None:
        self._begun: Generations[int] = Generations()
        self._copies: Generations[int] = Generations()
        self._greatest: Generations[int] = Generations()
        self._confirmed: Generations[tuple[Any, bool]] = Generations()
        self._deletions: Generations[bool] = Generations()
        self._refusals: Generations[tuple[Status, int]] = Generations()

    def refuse(self, key: bytes, request: int, status: Status, version: int, now: UnixTime) -> None:
        self._refusals.put((key, request), (status, version), now)

    def refused(self, key: bytes, request: int) -> tuple[Status, int] | None:
        return self._refusals.get((key, request))

    def again(self, key: bytes, version: int, request: int, now: UnixTime) -> None:
        if copies := self._count(key, version, request):
            self._copies.put((key, request), copies + 1, now)

    def merged(self, key: bytes, version: int, request: int, now: UnixTime) -> None:
        if (copies := self._count(key, version, request)) > 1:
            self._copies.put((key, request), copies - 1, now)

    def may_stand(self, key: bytes, version: int, request: int, now: UnixTime) -> bool:
        copies = max(self._count(key, version, request) - 1, 0)
        self._copies.put((key, request), copies, now)
        return copies > 0

    def _count(self, key: bytes, version: int, request: int) -> int:
        copies = self._copies.get((key, request))
        if copies is not None:
            return copies
        return int(self._begun.get((key, version)) == request)

    def claim(self, key: bytes, version: int, request: int, now: UnixTime, *, conditional: bool) -> int:
        known = self._begun.get((key, version))
        if known is not None:
            if known != request and known >> TRY_BITS != request >> TRY_BITS:
                return version
            self._copies.put((key, request), self._count(key, version, request) + 1, now)
            return 0
        greatest = self._greatest.get((key, 0)) or 0
        if version < greatest and not conditional:
            return greatest
        self._begun.put((key, version), request, now)
        return 0

    def confirm(self, key: bytes, record: StoredRecord, now: UnixTime, *, existed: bool) -> None:
        self._confirmed.put((key, record.version), ((record.flags, record.value), existed), now)
        if record.version > (self._greatest.get((key, 0)) or 0):
            self._greatest.put((key, 0), record.version, now)

    def confirmed(self, key: bytes, record: StoredRecord, write: int) -> bool | None:
        begun = self._begun.get((key, record.version))
        if begun is None or begun >> TRY_BITS != write:
            return None
        known = self._confirmed.get((key, record.version))
        return known[1] if known is not None and known[0] == (record.flags, record.value) else None

    def deletion(self, key: bytes, version: int, now: UnixTime, *, existed: bool) -> bool:
        known = self._deletions.get((key, version))
        if known is None:
            self._deletions.put((key, version), existed, now)
        return existed if known is None else known
