"""Upkeep: rounds of work on a thread that must not end, because it keeps something alive.

A full file system, or no descriptor, thread or memory left, fails a round. The next one may succeed. So a round's
exception never ends the thread: it is the reason for a degraded state until a round succeeds, and a line in the log,
but not one each time.
"""

import logging
import threading
import time
from collections.abc import Callable

from kdht.errors import DatapathError, KdhtError

_REFUSALS = (OSError, MemoryError, RuntimeError, KdhtError)
"""Errors that the system gives: no descriptor, memory or thread is left. Python raises RuntimeError for a thread that cannot start."""
QUIET = 60.0
"""Seconds between two lines about the same failure."""


class Upkeep:
    """`what`: the work, for the log's "WHAT failed". Used by one thread; `why` may be read by any."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self.why = ""
        """Why the last round failed. Empty: it did not."""
        self._log = log
        self._what = what
        self._told = ("", 0.0)

    def attempt(self, work: Callable[[], object]) -> bool:
        """Do a round. Never raises. Returns whether it succeeded."""
        try:
            work()
        except Exception as error:
            self._failed(error)
            return False
        if self.why:
            self._log.info("%s works again", self._what)
        self.why = ""
        return True

    def _failed(self, error: Exception) -> None:
        self.why = f"{self._what} failed: {error or type(error).__name__}; tried again"
        text, at = self._told
        now = time.monotonic()
        # A full disk fails each round. A line for each would fill the log, and hide everything else.
        if text == self.why and now - at < QUIET:
            return
        self._told = (self.why, now)
        # What the system refuses needs no traceback; a bug does.
        self._log.error(self.why, exc_info=not isinstance(error, _REFUSALS))


def started(name: str, work: Callable[[], object]) -> threading.Thread:
    """A running thread that ends with its process. Raises DatapathError: the system has no thread left."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise DatapathError(f"cannot start the thread {name}: {error or 'no memory'}") from error
    return thread
