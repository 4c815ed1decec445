"""What is needed to open a LevelDB database again in a running process: after a failed write LevelDB takes none.

plyvel must not close a database while another thread reads it. Readers take no lock. So the database is first hidden from new
readers, then closed when nobody holds a reference to it any more.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from kdht.errors import StorageError
from kdht.times import UnixTime

FIRST_RETRY = 1.0
LAST_RETRY = 60.0
"""Seconds between two tries, doubled by each: a broken disk fails again and again."""
CALM = 300.0
"""Seconds after which a failure is not counted with the earlier ones."""
LOOKS = 400
LOOK_SECONDS = 0.005
PROBE_BYTES = 1 << 16


class Reopening:
    """When the next try is due."""

    def __init__(self) -> None:
        self._next = UnixTime(0.0)
        self._last = UnixTime(0.0)
        self._wait = FIRST_RETRY

    def is_due(self, now: UnixTime) -> bool:
        """Whether to try now. If so, the next try is due later."""
        if 0 <= self._next - now <= LAST_RETRY:
            return False
        if now - self._last > CALM:
            self._wait = FIRST_RETRY
        self._last, self._next = now, UnixTime(now + self._wait)
        self._wait = min(2 * self._wait, LAST_RETRY)
        return True


class _Closed:
    """Stands in for a database that is closed for a moment, or could not be opened again."""

    def close(self) -> None:
        """No-op."""

    def __getattr__(self, name: str) -> NoReturn:
        raise StorageError("the database is closed, because its disk failed: the node tries to open it again")


CLOSED: Any = _Closed()


def takes_writes(path: str) -> bool:
    """Whether the disk takes and keeps a small file."""
    probe = Path(path) / "probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            # Only a sync shows whether the disk has room and takes it.
            os.fsync(file.fileno())
        probe.unlink()
    except OSError:
        return False
    return True


def is_released(held: list[Any]) -> bool:
    """Whether nobody but `held`, a list of one, holds its item any more. Waits for that."""
    pause = threading.Event()
    for _ in range(LOOKS):
        if _references(held) == _references([object()]):
            return True
        pause.wait(LOOK_SECONDS)
    return False


def _references(held: list[Any]) -> int:
    return sys.getrefcount(held[0])
