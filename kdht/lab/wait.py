"""Waiting for conditions, in place of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

from kdht.errors import LabError

Found = TypeVar("Found")

LEAST_INTERVAL = 0.01
MOST_INTERVAL = 0.1
"""Seconds between two looks."""
OF_THE_WAIT = 0.05
"""Or this part of what was waited already."""


def wait_until(condition: Callable[[], Found | None], what: str, timeout: float = 20.0) -> Found:
    """The first true value of `condition()`; raises LabError, naming `what`, after `timeout` seconds."""
    begun = time.monotonic()
    while True:
        found = condition()
        if found:
            return found
        waited = time.monotonic() - begun
        if waited >= timeout:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        # Most conditions ask a daemon. A hundred questions a second would slow down the start that is waited for.
        time.sleep(min(max(LEAST_INTERVAL, waited * OF_THE_WAIT), MOST_INTERVAL))
