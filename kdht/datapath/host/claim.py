"""Keeps two nodes of one network namespace from using one nft table: the later one would replace the earlier one's.

A claim is a locked file in the runtime directory. The kernel frees the lock when its process ends.

Contract: any thread, for the network namespace of that thread.
"""

import fcntl
import os
from pathlib import Path

from kdht.datapath.host.ledger import directory_of_root, netns_cookie
from kdht.errors import DatapathError


class TableClaim:
    """`take` and `release` may be called again."""

    def __init__(self, directory: Path, table: str) -> None:
        self._directory = directory
        self._table = table
        self._path: Path | None = None
        self._fd = -1

    def take(self) -> None:
        """Raises DatapathError if another node has the table, or if another user could have written the file."""
        path = _path(self._directory, self._table)
        try:
            os.close(directory_of_root(self._directory))
            self._fd = _locked(path)
        except BlockingIOError:
            raise DatapathError(
                f"table inet {self._table} belongs to another node of this host ({_holder(path)}): "
                "give this node another datapath.table and another datapath.first_queue"
            ) from None
        except OSError as error:
            raise DatapathError(f"cannot claim the table in {path}: {error.strerror}") from error
        self._path = path

    def release(self) -> None:
        """Remove the file."""
        if self._path is not None:
            # First: whoever locks it now sees that it is gone, and makes another.
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
        self._path = None


def holder_of(directory: Path, table: str) -> str:
    """The process of the running node that has the table, in words; nothing if there is none."""
    path = _path(directory, table)
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    except OSError:
        # No such file: nobody has claimed the table.
        return ""
    return ""


def _path(directory: Path, table: str) -> Path:
    return directory / f"table-{netns_cookie():x}-{table}"


def _locked(path: Path) -> int:
    """Raises BlockingIOError if another process has the lock."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner removes its file. Then this lock is on a file that nobody else can find.
            if path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
                os.truncate(fd, 0)
                os.write(fd, f"process {os.getpid()}".encode())
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "unknown"
    except OSError:
        return "unknown"
