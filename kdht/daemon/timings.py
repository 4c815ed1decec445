"""Measures the node's work. The clock is read once per batch or write, never per packet.

The datapaths' work, including answers from the cache, is not timed. It takes microseconds, and reading a clock would
be a good part of that.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence

from kdht.histogram import Histogram
from kdht.storage import LevelStore, Outcome, Wish
from kdht.storage.base import OnChange
from kdht.storage.room import Room
from kdht.times import UnixTime
from kdht.wire._shared import Op

log = logging.getLogger(__name__)

LATE_OPS = (
    Op.GET,
    Op.PUT,
    Op.DELETE,
    Op.QUORUM_GET,
    Op.WATCH,
    Op.ANNOUNCE,
    Op.WITHDRAW,
    Op.MEMBERS,
)


class Timings:
    """One node's Observer. Thread-safe."""

    begin = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.requests = {op: Histogram() for op in LATE_OPS}
        """From a request's arrival at the service to its answer, by op."""
        # A plain number finds its Op there, without a call for each write: they are equal.
        self._by_number: Mapping[int, Histogram] = dict(self.requests.items())
        self.group = Histogram()
        """One group of writes, from LevelDB's reads to the end of its sync."""

    def at_once(self, reads: int, begun: float) -> None:
        """A batch that began at `begun` (perf_counter) is answered. All its reads count as slow as the last one."""
        if reads:
            # One look at the clock for the batch. The figure is an upper bound for all but the last read.
            self.requests[Op.GET].observe(time.perf_counter() - begun, reads)

    def late(self, op: int, arrived: UnixTime) -> None:
        """A request that arrived at `arrived`, Unix seconds, is answered."""
        self._by_number[op].observe(max(time.time() - arrived, 0.0))

    def away(self) -> None:
        """The process did not run for half a second or more."""
        log.warning("was away for half a second or more: compares its records with other replicas anew")


class TimedStore(LevelStore):
    """A store with a measurement of each group of writes."""

    def __init__(self, path: str | os.PathLike[str], window: int, room: Room, group: Histogram) -> None:
        super().__init__(path, window, room)
        self._group = group

    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        begun = time.perf_counter()
        results = super().apply(wishes, now, on_change)
        self._group.observe(time.perf_counter() - begun)
        return results
