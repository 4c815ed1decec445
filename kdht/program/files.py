"""Files that are whole or absent, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, replacing what was there, and let the disk have it. Raises OSError."""
    with replacing(path, mode) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that stands at `path` when the block ends, and never if it raises. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = _made(path, beside, mode)
        with open(fd, "wb") as file:
            yield file
            file.flush()
            # Before the rename: after a power failure the name has the old content or the new, never nothing.
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _made(path: Path, beside: Path, mode: int) -> int:
    try:
        return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        # Nobody has heard of the other name.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The rename itself is in the directory.
        os.fsync(fd)
    finally:
        os.close(fd)
