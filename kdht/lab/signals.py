"""Signals in the laboratory, so that it is always taken down. SIGTERM acts like SIGINT. Neither interrupts
the start of a process before it is noted, nor the taking down."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as SIGINT does: by an exception. May be nested."""
    try:
        before = signal.signal(signal.SIGTERM, _exit)
    except ValueError:  # only the main thread may, and only it gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def deferred() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block. May be nested.

    They are not blocked, because processes started meanwhile would inherit that.
    """
    waiting: list[int] = []
    try:
        before = {number: signal.signal(number, lambda got, _: waiting.append(got)) for number in _ENDING}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
