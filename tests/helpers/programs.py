"""Programs that run beside a test: what they have said so far, and waiting for it."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from paths import ROOT

from kdht.lab.wait import wait_until

TIMEOUT = 60.0


class Program:
    """One program, started. `lines`: of its standard output so far; its errors go to the test's."""

    def __init__(self, command: Sequence[str | Path], **variables: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """The first line from number `after` on that matches as a whole."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in self.lines[after:] if (match := re.fullmatch(pattern, line)))
            if not found and self.process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"ended with {self.process.returncode} after {self.lines}")
            return bool(found)

        wait_until(look, f"{pattern} in {self.lines}", timeout=TIMEOUT)
        return found[0]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Signal it and wait; its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=TIMEOUT)
        self._reader.join()
        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
