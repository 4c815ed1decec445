"""Sets of keys as sorted, disjoint intervals [start, stop) of numbers."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

from kdht.node.repair.ranges import SPACE

Interval = tuple[int, int]


class Intervals:
    """Immutable: every change gives a new set, so another thread may read the old one."""

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._all: list[Interval] = []
        for start, stop in sorted(intervals):
            # Neighbours are joined, so that `covers` needs to look at one interval only.
            if self._all and start <= self._all[-1][1]:
                self._all[-1] = self._all[-1][0], max(stop, self._all[-1][1])
            elif start < stop:
                self._all.append((start, stop))

    def __iter__(self) -> Iterator[Interval]:
        return iter(self._all)

    def covers(self, interval: Interval) -> bool:
        """Whether all of an interval is in the set."""
        at = bisect_right(self._all, (interval[0], SPACE)) - 1
        return at >= 0 and self._all[at][0] <= interval[0] and interval[1] <= self._all[at][1]

    def touches(self, interval: Interval) -> bool:
        """Whether any of an interval is in the set."""
        # The last one that begins before its end is the only candidate: they are sorted and disjoint.
        at = bisect_left(self._all, (interval[1], 0)) - 1
        return at >= 0 and interval[0] < self._all[at][1]

    def union(self, others: Iterable[Interval]) -> "Intervals":
        new = [interval for interval in others if not self.covers(interval)]
        # Neighbours repeat what they have said, so mostly nothing is new.
        return self._changed(_add, new) if new else self

    def within(self, others: "Intervals") -> "Intervals":
        """The intersection, in one walk along both."""
        found: list[Interval] = []
        mine, theirs = 0, 0
        while mine < len(self._all) and theirs < len(others._all):
            (a, b), (c, d) = self._all[mine], others._all[theirs]
            if a < d and c < b:
                found.append((max(a, c), min(b, d)))
            if b < d:
                mine += 1
            else:
                theirs += 1
        return Intervals(found)

    def minus(self, others: Iterable[Interval]) -> "Intervals":
        """What is in this set and not in the others."""
        gone = [interval for interval in others if self.touches(interval)]
        return self._changed(_cut, gone) if gone else self

    def complement(self) -> list[Interval]:
        """The intervals of all keys that are not in the set."""
        edges = [0, *(edge for interval in self._all for edge in interval), SPACE]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    @property
    def count(self) -> int:
        """Of disjoint intervals."""
        return len(self._all)

    def _changed(
        self, change: Callable[[list[Interval], int, int], None], intervals: Iterable[Interval]
    ) -> "Intervals":
        """A copy after a change with each interval, in its place: the cost hardly depends on the size of the set."""
        changed = Intervals()
        changed._all = self._all.copy()
        for start, stop in intervals:
            if start < stop:
                change(changed._all, start, stop)
        return changed


def _add(all: list[Interval], start: int, stop: int) -> None:
    """Join an interval with those that it touches."""
    first = bisect_left(all, (start, 0))
    if first and all[first - 1][1] >= start:
        first -= 1
    last = bisect_right(all, (stop, SPACE))
    if first < last:
        start, stop = min(start, all[first][0]), max(stop, all[last - 1][1])
    all[first:last] = [(start, stop)]


def _cut(all: list[Interval], start: int, stop: int) -> None:
    """Take an interval out."""
    first = bisect_left(all, (start, 0))
    if first and all[first - 1][1] > start:
        first -= 1
    last = bisect_left(all, (stop, 0))
    if first < last:
        ends = (all[first][0], start), (stop, all[last - 1][1])
        all[first:last] = [end for end in ends if end[0] < end[1]]


NONE = Intervals()
"""The empty set."""
