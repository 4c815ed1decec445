"""A small file that notes which sysctls of a network namespace were changed, and their old values.

All nodes of a network namespace share one ledger. They open it one at a time (`with` locks its directory). Every
change has holders: the nodes that need it, as long as they run. The file is written before the sysctls, so a crash
loses no old value. It names the boot and the namespace's cookie. The kernel never gives a cookie twice, so an old
ledger is never applied to another boot or namespace.

Root restores the sysctls that the ledger names, so a forged ledger would let others write as root. Three rules prevent
that. Only root, or the daemon's own user, may write the directory. Links are not followed. A ledger is refused whole if
it names any other sysctl than kdht's own, or a value that such a sysctl cannot have.
"""

import fcntl
import itertools
import os
import re
import secrets
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from kdht.errors import DatapathError

SO_NETNS_COOKIE = 71
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A ledger has a line for each sysctl. Whoever can write there must not fill the memory.
MAX_BYTES = 1 << 20
KNOWN = re.compile(
    r"ipv4/conf/(?!\.\.?/)[^/\s]{1,15}/(forwarding|accept_local|send_redirects|rp_filter)"
    r"|ipv6/conf/(?!\.\.?/)[^/\s]{1,15}/(forwarding|force_forwarding|accept_ra)"
)
"""The sysctls that kdht may change, by their paths under /proc/sys/net. An interface's name has at most 15 bytes."""
# Anything longer is no value of these sysctls. Root would write it all the same.
VALUE = re.compile(r"(-?[0-9]{1,3})?")

_numbers = itertools.count()


class LedgerEntry(NamedTuple):
    """One changed sysctl: its old value, our value, and a second sysctl with its value at that time."""

    was: str
    ours: str
    witness: str = ""
    """Its path. If its value has changed meanwhile, `was` is not put back."""
    witness_was: str = ""


class _Saved(msgspec.Struct):
    """The file."""

    boot: str
    entries: dict[str, LedgerEntry]
    holders: dict[str, list[str]]


class Ledger:
    """A context manager for any thread. Its methods may be called inside only. Entering may raise DatapathError."""

    def __init__(self, directory: Path) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        """By path, in the order of the changes."""
        self._holders: dict[str, list[str]] = {}
        self._on_disk = b""
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

    def remember(self, entries: dict[str, LedgerEntry]) -> None:
        """Note again what this node holds, where somebody removed the file meanwhile.

        Else the values of now would count as the old ones: the guards would go, and a stop would put nothing back.
        """
        if entries and (self._me not in self._holders or entries.keys() - self.entries.keys()):
            self.entries = {**entries, **self.entries}
            self._holders[self._me] = list(entries)

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
        self._name = f"sysctl-{netns_cookie():x}.json"
        try:
            self._lock = directory_of_root(self._directory)
            # On the directory: the file itself is replaced at each change.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._load()
        except OSError as error:
            raise self._unusable(error) from error

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1
        self._thread_lock.release()

    def _load(self) -> None:
        self.entries, self._holders, self._on_disk = {}, {}, b""
        try:
            self._on_disk = self._read()
            saved = _decoded(self._on_disk)
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DatapathError(
                f"{self._directory / self._name} is damaged ({error}): set the sysctls of this host as you want "
                "them, then remove the file"
            ) from error
        # Sysctls do not survive a boot, so the old values mean nothing now.
        if saved.boot == self._boot:
            self.entries = saved.entries
            self._holders = {who: paths for who, paths in saved.holders.items() if _lives(who)}

    def _read(self) -> bytes:
        # A pipe put there would hold up the start: O_NONBLOCK.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._name, flags, dir_fd=self._lock), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            return file.read(MAX_BYTES)

    def _save(self) -> None:
        """Replace the file atomically. An empty ledger has no file. Raises DatapathError."""
        here = self._lock
        beside = f".{self._name}.{secrets.token_hex(4)}"
        try:
            if not self.entries and not self._holders:
                # It is to be gone, and it is.
                with suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=here)
                return
            whole = msgspec.json.encode(_Saved(self._boot, self.entries, self._holders))
            if whole == self._on_disk:
                return  # reading needs no space on a full /run
            # O_EXCL makes a new file, and so follows no link. A crash before the rename leaves the old file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(beside, flags, 0o600, dir_fd=here), "wb") as file:
                    file.write(whole)
                os.replace(beside, self._name, src_dir_fd=here, dst_dir_fd=here)
                self._on_disk = whole
            except OSError:
                # The first error says why. The file beside is only litter.
                with suppress(OSError):
                    os.unlink(beside, dir_fd=here)
                raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DatapathError:
        return DatapathError(
            f"cannot keep the sysctls' old values in {self._directory}: {error.strerror}: "
            "make room there, or make it a directory of root (mode 755)"
        )


def is_known(path: str) -> bool:
    """Whether kdht may change the sysctl at this path under /proc/sys/net."""
    return KNOWN.fullmatch(path) is not None


def directory_of_root(path: Path) -> int:
    """A file descriptor of the directory, made if need be. Raises OSError, and DatapathError if others may write it."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Opened once and used by its descriptor from now on: a path could lead elsewhere a moment later.
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fd
    os.close(fd)
    raise DatapathError(
        f"{path}: another user may write there, and could choose what root writes: "
        f"remove it, or: chown root {path}; chmod 755 {path}"
    )


def _decoded(data: bytes) -> _Saved:
    """Raises msgspec.MsgspecError, or ValueError for what kdht never writes."""
    saved = msgspec.json.decode(data, type=_Saved)
    for path, entry in saved.entries.items():
        _check(path, entry)
    return saved


def _check(path: str, entry: LedgerEntry) -> None:
    names = (path, entry.witness) if entry.witness else (path,)
    if unknown := [name for name in names if not is_known(name)]:
        raise ValueError(f"{unknown[0]!r} is no sysctl of kdht's")
    values = (entry.was, entry.ours, entry.witness_was if entry.witness else entry.was)
    if wrong := [value for value in values if not VALUE.fullmatch(value)]:
        raise ValueError(f"{wrong[0]!r} is no value of {path}")


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
    # The 22nd field of proc(5) is the start time. A process ID alone may be another process by now.
    return f"{pid}.{fields[18]}"


def _lives(holder: str) -> bool:
    pid, dot, rest = holder.partition(".")
    try:
        return pid.isdecimal() and _life_of(int(pid)) == f"{pid}{dot}{rest.partition('.')[0]}"
    except (ProcessLookupError, ValueError, OverflowError):
        # It has ended, or what the ledger says is no process at all.
        return False
