"""Decides by checks whether a fast path loses packets, and has to be taken out of the way.

    in use ---- MISSES lost in a row ---> aside
    aside ----- `needed` good in a row --> in use

A check is one message that the fast path has to forward. Its result is GOOD, LOST, or UNKNOWN where its neighbour did
not answer, which may be the neighbour's fault. Who comes back and is lost again soon must stay good for longer.

Contract: no I/O and no clock; `now` is seconds on a steady clock. One thread.
"""

from enum import Enum

# With the pauses below, three losses take about a second. That leaves another one for the switch within the two
# that docs/design/path-check.md promises.
MISSES = 3
"""Lost in a row, until the path is taken out of the way. One may be the network's."""
NEEDED = 3
"""Good in a row, until it is used again;"""
MOST_NEEDED = 12
"""doubled up to this,"""
RELAPSE_S = 30.0
"""if it was lost again within so many seconds."""
PAUSE_S = 0.6
"""Between two checks."""
AGAIN_S = 0.02
"""Until the next one after one that was not good: the state is to be known soon."""
ASIDE_S = 0.25
"""Between two checks of a path that is aside."""
UNKNOWN_S = 0.3
"""Until the next one, if a neighbour did not answer."""


class Result(Enum):
    GOOD = "good"
    LOST = "lost"
    UNKNOWN = "unknown"


class PathCheck:
    """The checks of one fast path and one IP version."""

    def __init__(self) -> None:
        self.aside = False
        """The path is to be out of the way."""
        self.results = dict.fromkeys(Result, 0)
        self._row = 0
        """Equal results in a row, LOST or GOOD."""
        self._last = Result.GOOD
        self._needed = NEEDED
        self._back_at = float("-inf")

    def add(self, result: Result, now: float) -> None:
        """The next result."""
        self.results[result] += 1
        if result is Result.UNKNOWN:
            return
        self._row = self._row + 1 if result is self._last else 1
        self._last = result
        if not self.aside and result is Result.LOST and self._row >= MISSES:
            # A path that comes and goes costs requests at each turn. It has to stay good for longer each time.
            relapsed = now - self._back_at < RELAPSE_S
            self._needed = min(self._needed * 2, MOST_NEEDED) if relapsed else NEEDED
            self.aside = True
        elif self.aside and result is Result.GOOD and self._row >= self._needed:
            self.aside = False
            self._back_at = now

    def pause_s(self, result: Result) -> float:
        """Seconds until the next check, after this result."""
        if result is Result.UNKNOWN:
            return UNKNOWN_S
        if self.aside:
            return ASIDE_S
        return AGAIN_S if result is Result.LOST else PAUSE_S
