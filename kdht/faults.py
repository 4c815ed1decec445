"""Exceptions that nobody expected: counted, and told in the log a few times, so that only their own message is lost.

Contract: thread-safe, no clock. The first, second, fourth, eighth ... of a kind is logged, for a member may send as many bad
messages as it likes.
"""

import logging
import sys
import threading
from collections import Counter
from types import TracebackType

MAX_KINDS = 64
"""Kinds that are told apart. The others count as one."""

log = logging.getLogger(__name__)


class Faults:
    """The faults of one part. They are counted in `counters`, as "faults"."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._kinds: Counter[tuple[str, str]] = Counter()

    def guard(self, of: str) -> "Guard":
        """A block whose exceptions are noted and go no further. It has no state: any number of blocks may use one."""
        return Guard(self, of)

    def note(self, of: str) -> None:
        """Count and log the exception that is being handled. `of`: the kind of message or work that is lost."""
        kind, error, trace = sys.exc_info()
        name = (of, kind.__name__ if kind is not None else "")
        with self._lock:
            self._counters["faults"] += 1
            if name not in self._kinds and len(self._kinds) >= MAX_KINDS:
                name = ("", "")
            self._kinds[name] += 1
            count = self._kinds[name]
        if count & (count - 1) == 0:
            fields = {"lost": of, "error": repr(error), "at": _place(trace), "count": count}
            log.error("a fault of kdht: one message or task is lost, the others go on", extra=fields)


class Guard:
    """Faults.guard."""

    # No contextlib.contextmanager: a block stands around each request, and a generator for each would cost more than the block.
    __slots__ = ("_faults", "_of")

    def __init__(self, faults: Faults, of: str) -> None:
        self._faults = faults
        self._of = of

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # An end of the thread or the process (SystemExit, KeyboardInterrupt) is nobody's fault, and goes on.
        if not isinstance(error, Exception):
            return False
        self._faults.note(self._of)
        return True


def _place(trace: TracebackType | None) -> str:
    """File and line where it was raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
