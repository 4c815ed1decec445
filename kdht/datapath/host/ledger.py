"""A small file that notes which sysctls of a network namespace were changed, and their old values.

All nodes of a network namespace share one ledger. They open it one at a time (`with`, under a lock on its
directory). Every change has holders: the nodes that need it. A holder that no longer runs does not count. The
file is written before the sysctls, so a crash loses no old value. It names the boot and the namespace's cookie,
which the kernel never gives twice, so an old ledger is never applied to another boot or namespace.
"""

import fcntl
import itertools
import json
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from kdht.errors import DatapathError

SO_NETNS_COOKIE = 71
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_numbers = itertools.count()


class LedgerEntry(NamedTuple):
    """One changed sysctl: its old value, our value, and a second sysctl with its value at that time."""

    was: str
    ours: str
    witness: str = ""
    """Its path. If its value has changed meanwhile, `was` is not put back."""
    witness_was: str = ""


class Ledger:
    """A context manager for any thread. Its methods may be called inside only. Entering may raise DatapathError."""

    def __init__(self, directory: Path) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        """By path, in the order of the changes."""
        self._holders: dict[str, list[str]] = {}
        self._directory = directory
        self._me = f"{_life_of(os.getpid())}.{next(_numbers)}"
        self._lock = -1
        """The file descriptor of the locked directory."""
        self._thread_lock = threading.Lock()

    def __enter__(self) -> "Ledger":
        self._thread_lock.acquire()
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._save()
        finally:
            self._close()

    def hold(self, entries: dict[str, LedgerEntry]) -> None:
        """Note changes that this node is about to make and needs."""
        self.entries.update(entries)
        self._holders[self._me] = list(entries)
        self._save()

    def let_go(self) -> None:
        """Note that this node needs no change any more."""
        self._holders.pop(self._me, None)

    def take_unheld(self) -> dict[str, LedgerEntry]:
        """Remove and return the changes that no running node needs."""
        held = {path for paths in self._holders.values() for path in paths}
        unheld = {path: entry for path, entry in self.entries.items() if path not in held}
        self.entries = {path: entry for path, entry in self.entries.items() if path in held}
        return unheld

    def _open(self) -> None:
        self._boot = BOOT_ID.read_text().strip()
        self._path = self._directory / f"sysctl-{netns_cookie():x}.json"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DatapathError(
                f"cannot keep the sysctls' old values in {self._directory}: {error.strerror}"
            ) from error
        # On the directory: the file itself is replaced at each change.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._load()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1
        self._thread_lock.release()

    def _load(self) -> None:
        self.entries, self._holders = {}, {}
        try:
            data = json.loads(self._path.read_text())
            # Sysctls do not survive a boot, so the old values mean nothing now.
            if data["boot"] != self._boot:
                return
            self.entries = {path: LedgerEntry(*values) for path, values in data["entries"].items()}
            self._holders = {who: paths for who, paths in data["holders"].items() if _lives(who)}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise DatapathError(
                f"{self._path} is damaged: set the sysctls of this host as you want them, then remove the file"
            ) from error

    def _save(self) -> None:
        """Replace the file atomically. An empty ledger has no file."""
        if not self.entries and not self._holders:
            self._path.unlink(missing_ok=True)
            return
        whole = {"boot": self._boot, "entries": self.entries, "holders": self._holders}
        # Replaced as a whole: a crash in between leaves the old file.
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(whole, indent=1))
        beside.replace(self._path)


def netns_cookie() -> int:
    """The number of this thread's network namespace, which the kernel never gives twice."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        try:
            return int.from_bytes(here.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:  # before Linux 5.14
            return os.stat("/proc/thread-self/ns/net").st_ino


def _life_of(pid: int) -> str:
    """A process ID with its start time, because IDs are used again. Raises ProcessLookupError if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError from None
    if state in "ZX":
        raise ProcessLookupError
    return f"{pid}.{fields[18]}"


def _lives(holder: str) -> bool:
    pid, started, _ = holder.split(".")
    try:
        return _life_of(int(pid)) == f"{pid}.{started}"
    except ProcessLookupError:
        return False
