"""Decides by two counts whether a part of what a fast path re-addresses never leaves this host.

A check (path_check.py) takes the way to a neighbour. A rule that drops only some clients' packets, or only long ones,
lets checks through. So the count of re-addressed packets is compared with the count of those that were seen to leave.

    whole ------- missing once ---------> suspected -- missing again --> aside
      ^  ^---------- none missing -----------'                             |
      |                                                                    | `hold_s`, or a change of the host
      '----------------- none missing ------------- tried <----------------'
                                                      '--- missing ---> aside, for twice as long

Only real packets tell whether the fault is gone, because checks pass. So the path is tried again after a while.

Contract: no I/O and no clock; `now` is seconds on a steady clock. One thread.
"""

from enum import Enum
from typing import NamedTuple

LEAST = 4
"""Missing packets that count. Fewer may be on their way between the two counts,"""
SHARE = 16
"""and fewer than the sixteenth of all may be sent to places without a route, by a stranger's forged addresses."""
WINDOW_S = 0.25
"""Seconds that are compared at once, at least. With the checks' pauses two windows take less than a second."""
HOLD_S, MOST_HOLD_S = 4.0, 64.0
"""Until a path that lost packets is tried again: doubled each time it loses them again at once."""
HASTE = 4
"""A change of the host may be the repair: then the wait is a quarter."""
RELAPSE_S = 30.0
"""Who loses packets again after so many seconds begins with the shortest wait."""


class Departed(NamedTuple):
    """Packets so far: re-addressed, and seen to leave."""

    sent: int
    left: int


class State(Enum):
    WHOLE = "whole"
    SUSPECTED = "suspected"
    ASIDE = "aside"
    TRIED = "tried"


class Departures:
    """Of one fast path."""

    def __init__(self) -> None:
        self.state = State.WHOLE
        self.missing = 0
        """Packets that counted as missing so far."""
        self._before: Departed | None = None
        self._since = 0.0
        self._changes = 0
        self._hold_s = HOLD_S
        self._tried_at = float("-inf")

    @property
    def aside(self) -> bool:
        """The path is to be out of the way."""
        return self.state is State.ASIDE

    @property
    def pause_s(self) -> float:
        """Until the next comparison, at most."""
        return float("inf") if self.state is State.WHOLE else WINDOW_S

    def add(self, counts: Departed, changes: int, now: float) -> None:
        """The counts now, and how often the host was changed so far."""
        if self.aside:
            self._wait(changes, now)
            return
        # A table that was loaded again counts from zero.
        if self._before is None or counts.left < self._before.left or counts.sent < self._before.sent:
            self._begin(counts, now)
        elif now - self._since >= WINDOW_S:
            self._judge(self._lost(counts), now)
            self._begin(counts, now)
        self._changes = changes

    def forget(self) -> None:
        """Begin anew: checks found losses, and decide until they find none."""
        self.state = State.WHOLE
        self._begin(None, 0.0)

    def _begin(self, counts: Departed | None, now: float) -> None:
        self._before, self._since = counts, now

    def _lost(self, counts: Departed) -> int:
        assert self._before is not None
        sent = counts.sent - self._before.sent
        lost = sent - (counts.left - self._before.left)
        return lost if lost >= LEAST and lost * SHARE >= sent else 0

    def _judge(self, lost: int, now: float) -> None:
        self.missing += lost
        if not lost:
            self.state = State.WHOLE
        elif self.state is State.WHOLE:
            self.state = State.SUSPECTED
        else:
            self._step_aside(now)

    def _step_aside(self, now: float) -> None:
        relapsed = now - self._tried_at < RELAPSE_S
        self._hold_s = min(self._hold_s * 2, MOST_HOLD_S) if relapsed else HOLD_S
        self.state = State.ASIDE
        self._since = now

    def _wait(self, changes: int, now: float) -> None:
        quick = self._hold_s / HASTE
        # The switch itself changes the host's rules, so only later changes count.
        if now - self._since < quick:
            self._changes = changes
        if now - self._since >= (self._hold_s if changes == self._changes else quick):
            self.state, self._tried_at = State.TRIED, now
            self._begin(None, now)
