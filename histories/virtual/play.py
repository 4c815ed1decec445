"""A schedule, run and held against the promises."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import kdht.faults
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


class Endless(BaseException):
    """Some part of a node does not come back. No `except Exception` of the node may stop it."""


def play(schedule: Schedule) -> Played:
    """Run it, and check its history. A node that raises, or hangs, is a violation too."""
    try:
        with _limited(), _faults() as faults:
            done = run(schedule)
            verdict = judge(done)
    except (Exception, Endless) as error:
        return Played([], False, (Violation("lives", "-", f"{type(error).__name__}: {error}"),))
    undecided = tuple(Violation("linearizable", "-", f"undecided: {text}") for text in verdict.undecided)
    return Played(done.history, done.is_late, verdict.violations + undecided + tuple(faults))


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


class _FaultList(logging.Handler):
    """Exceptions that a node survived by giving up one message: a node under test must have none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[Violation] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = vars(record)
        self.found.append(Violation("lives", "-", f"{told['lost']}: {told['error']} at {told['at']}"))


@contextmanager
def _faults() -> Iterator[list[Violation]]:
    handler = _FaultList()
    log = logging.getLogger(kdht.faults.__name__)
    log.addHandler(handler)
    try:
        yield handler.found
    finally:
        log.removeHandler(handler)


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
