"""Signals, so that whatever the laboratory built is taken down: SIGTERM as SIGINT, and no second one amid it."""

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
def held() -> Iterator[None]:
    """An impatient second Ctrl-C waits until the block is through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
