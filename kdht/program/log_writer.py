"""Writes log lines without ever holding up who logs.

Whoever reads standard error may stall: a full pipe, a stopped terminal, a full disk. So lines wait in a bounded queue
and a thread of its own writes them. Lines beyond the bound are lost and counted, and a line says so later.

Contract: any thread may log. Nothing is written before `start` or `drain`, because threads keep the rights of the
moment when they are made.
"""

import logging
import os
import threading
from collections import deque

from kdht.program.streams import has_room

# Some thousand lines: enough for a burst, and no matter for a host with many nodes.
MAX_BYTES = 1 << 20
"""Of waiting lines."""
CHUNK = 2048
"""Bytes of one write before `start`: less than a pipe takes at once (PIPE_BUF)."""


class LogWriter(logging.Handler):
    """Writes to the file descriptor `fd`."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.lost = 0
        """Lines lost so far."""
        self._fd = fd
        self._told = 0
        """Of the lost lines, how many were told of."""
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        """Bytes in the queue, and those that are being written."""
        # Not the handler's own lock: that one is held around `emit`.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:
            line = f"a log line of {record.name} cannot be written: {record.msg!r}\n".encode(
                "ascii", "replace"
            )
        with self._changed:
            if self._waiting + len(line) > MAX_BYTES:
                self.lost += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            self._changed.notify_all()

    def start(self) -> None:
        """Write from now on. May be called again."""
        if self._thread is None:
            # As a daemon thread, because it may hang in a write when the process ends.
            thread = threading.Thread(target=self._run, name="kdht-log", daemon=True)
            thread.start()
            self._thread = thread

    def drain(self, seconds: float) -> None:
        """Write what waits; what cannot be written within so many seconds is lost."""
        if self._thread is None:
            self._write_here(seconds)
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                # All at once: one write for many lines.
                batch = list(self._lines)
                self._lines.clear()
            written = self._write(b"".join(batch))
            with self._changed:
                self._waiting -= sum(map(len, batch))
                self._changed.notify_all()
            if written:  # else that line would be lost as well, and be told of, and so on
                self._tell_lost()

    def _write_here(self, seconds: float) -> None:
        """In the caller's thread, and so only as much as the reader takes at once."""
        while self._lines and has_room(self._fd, seconds):
            line = self._lines.popleft()
            self._waiting -= len(line)
            self._write(line[:CHUNK])

    def _write(self, data: bytes) -> bool:
        """Returns whether all was written."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # another process made it non-blocking
                has_room(self._fd, 1.0)
            except OSError:  # its reader is gone, or its disk is full
                self.lost += bytes(left).count(b"\n")
                return False
        return True

    def _tell_lost(self) -> None:
        lost, self._told = self.lost - self._told, self.lost
        if lost:
            told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "lines": lost}
            self.handle(logging.makeLogRecord({**told, "msg": "log lines were lost"}))
