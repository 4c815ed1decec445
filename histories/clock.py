"""Differing clocks: a preloaded library adds an offset to the time of day of one process.

The offset is in a file mapped by the process, so it can be changed while the process runs. Monotonic clocks
are unchanged. The library is compiled at its first use.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histories import compiling

SOURCE = Path(__file__).with_name("clock.c")


def compiled(directory: Path) -> Path:
    """The library, in `directory`. Raises LabError without a compiler."""
    return compiling.compiled(SOURCE, directory / "clock.so", "-shared", "-fPIC", "-ldl")


class Clock:
    """The time of day of one process."""

    def __init__(self, library: Path, file: Path) -> None:
        self._library = library
        self._file = file
        self.offset = 0.0
        self._file.write_bytes(bytes(8))

    def set(self, offset: float) -> None:
        """Seconds ahead of the machine's clock. Running processes see a step."""
        self.offset = offset
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", round(offset * 1e9)))

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Processes started in the block have this clock."""
        before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "HISTORIES_CLOCK")}
        os.environ.update(LD_PRELOAD=str(self._library), HISTORIES_CLOCK=str(self._file))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
