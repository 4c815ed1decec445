"""Waiting for conditions, in place of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

from kdht.errors import LabError

Found = TypeVar("Found")

INTERVAL = 0.01
"""Seconds between two looks."""


def wait_until(condition: Callable[[], Found | None], what: str, timeout: float = 20.0) -> Found:
    """The first true value of `condition()`; raises LabError, naming `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(INTERVAL)
