"""Makes a failing schedule smaller: parts are left out while a promise of the same name is still broken.

Delta debugging by halves (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002), over
faults, then over operations, then over clocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from histories.virtual.play import play
from histories.virtual.schedule import Schedule

T = TypeVar("T")

Fails = Callable[[Schedule], bool]


def shrink(schedule: Schedule, promises: frozenset[str], fails: Fails | None = None) -> Schedule:
    """The smallest found that still breaks one of `promises`; `fails` says so, by default by playing it."""

    def still(candidate: Schedule) -> bool:
        return any(violation.promise in promises for violation in play(candidate).violations)

    is_bad = fails or still
    while True:
        before = schedule
        schedule = _fewer_faults(schedule, is_bad)
        schedule = _fewer_actions(schedule, is_bad)
        schedule = _if_bad(schedule, replace(schedule, skews={}), is_bad)
        level = tuple(0.0 for _ in schedule.client_skews)
        schedule = _if_bad(schedule, replace(schedule, client_skews=level), is_bad)
        if schedule == before:
            return schedule


def _if_bad(schedule: Schedule, simpler: Schedule, is_bad: Fails) -> Schedule:
    """The simpler one, if it fails too."""
    return simpler if simpler != schedule and is_bad(simpler) else schedule


def _fewer_faults(schedule: Schedule, is_bad: Fails) -> Schedule:
    kept = fewest(schedule.faults, lambda faults: is_bad(replace(schedule, faults=tuple(faults))))
    return replace(schedule, faults=tuple(kept))


def _fewer_actions(schedule: Schedule, is_bad: Fails) -> Schedule:
    kept = fewest(schedule.actions, lambda actions: is_bad(replace(schedule, actions=tuple(actions))))
    return replace(schedule, actions=tuple(kept))


def fewest(things: Sequence[T], is_bad: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of `things`, in their order, of which nothing can be left out that is not `is_bad` any more."""
    kept = list(things)
    size = len(kept)
    while size:
        start = 0
        while start < len(kept):
            without = kept[:start] + kept[start + size :]
            if is_bad(without):
                kept = without
            else:
                start += size
        size //= 2
    return kept
