"""A schedule, run and held against the promises."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from histories import counters, final, registers, sessions
from histories.record import Operation
from histories.verdict import Verdict, Violation, joined
from histories.virtual.schedule import Schedule
from histories.virtual.world import Run, run

CPU_SECONDS = 60.0
"""Of the processor, after which a schedule counts as one that does not end: they take a thousandth of that."""


class Played(NamedTuple):
    history: list[Operation]
    is_late: bool
    """Whether the cluster needed longer than usual to be at rest."""
    violations: tuple[Violation, ...]


class Endless(Exception):
    """Some part of a node does not come back."""


def play(schedule: Schedule) -> Played:
    """Run it, and check its history. A node that raises, or hangs, is a violation too."""
    try:
        with _limited():
            done = run(schedule)
            verdict = judge(done)
    except Exception as error:
        return Played([], False, (Violation("lives", "-", f"{type(error).__name__}: {error}"),))
    undecided = tuple(Violation("linearizable", "-", f"undecided: {text}") for text in verdict.undecided)
    return Played(done.history, done.is_late, verdict.violations + undecided)


def judge(done: Run) -> Verdict:
    """All promises."""
    history = done.history
    return joined(
        [
            registers.check(history),
            sessions.check(history),
            counters.check(history),
            final.check(history, done.held, done.replicas),
        ]
    )


@contextmanager
def _limited() -> Iterator[None]:
    def expired(number: int, frame: FrameType | None) -> None:
        place = f"{frame.f_code.co_qualname}, line {frame.f_lineno}" if frame else "?"
        raise Endless(f"no end after {CPU_SECONDS:g} s of the processor, in {place}")

    before = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
