"""The data directory: one daemon's at a time, with the node's ID, contacts and records.

lock       locked (flock) while a daemon runs; holds its process ID
node_id    40 hex digits, chosen at the first start
caught_up  when this node had last caught up with the others, Unix seconds
machine    a digest of the ID of the machine that last ran it
contacts   the last known contacts, JSON: only hints, so a damaged one is ignored
records/   LevelDB
doubted-N/ records of a node that was away for too long, until others confirm them (`aside`)
set-aside-TIME.jsonl  records without a copy elsewhere, for the operator
"""

import fcntl
import logging
import os
import stat
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Self

import msgspec

from kdht.errors import StorageDamaged, StorageError, StorageLocked
from kdht.program.files import write_atomically
from kdht.program.json import decoded
from kdht.times import UnixTime
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_LEN

log = logging.getLogger(__name__)

# An ID, a witness, a list of addresses. Whoever can write there must not fill the memory.
MAX_SMALL_FILE = 1 << 20
MACHINE_ID = Path("/etc/machine-id")


class SavedContact(msgspec.Struct):
    """One contact in the file."""

    id: str
    host: str
    port: int


class DataDir:
    """Holds the lock from `open` to `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the directory if need be, and lock it.

        Raises StorageLocked when another daemon runs on it, StorageError when it cannot be used.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before the first file is opened.
            _refuse_links(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Only with the lock: before, the number in it is that of the running daemon.
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StorageLocked(
                f"{path}: a daemon (process {owner}) runs on this data directory: "
                "stop it, or choose another with --data-dir"
            ) from None
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        return cls(path, lock)

    def close(self) -> None:
        """Release the lock. May be called again."""
        # The file stays: removing it would let two daemons lock two files of one name.
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def records(self) -> Path:
        return self.path / "records"

    def node_id(self) -> bytes | None:
        """This node's ID, 20 bytes; None if it has none yet. Raises StorageDamaged, or StorageError."""
        return kept_node_id(self.path)

    def keep_node_id(self, id: bytes) -> None:
        """Save the ID. Raises StorageError."""
        self._write(self.path / "node_id", id.hex().encode() + b"\n")

    def forget_node_id(self) -> None:
        """Delete the ID: the next start chooses a new one. Raises StorageError."""
        try:
            (self.path / "node_id").unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.path / "node_id", error) from error

    def load_contacts(self) -> list[Contact]:
        """The saved contacts. An empty list if the file is missing or damaged."""
        try:
            data = _read(self.path / "contacts") or b"[]"
            saved = decoded(data, list[SavedContact])
            return [Contact(_node_id(c.id), *Address.of(c.host, c.port)) for c in saved if 0 < c.port < 65536]
        except (ValueError, StorageError) as error:
            log.warning("saved contacts ignored", extra={"path": self.path / "contacts", "error": error})
            return []

    def save_contacts(self, contacts: Sequence[Contact]) -> None:
        """Replace the saved contacts. Raises StorageError."""
        saved = [SavedContact(c.id.hex(), c.address.host, c.port) for c in contacts]
        self._write(self.path / "contacts", msgspec.json.format(msgspec.json.encode(saved)))

    def caught_up_at(self) -> UnixTime | None:
        """The last time when this node had caught up, Unix seconds. None: unknown. Raises StorageError."""
        try:
            return UnixTime(float(_read(self.path / "caught_up") or ""))
        except ValueError:
            # A first start, or a file that a power failure emptied.
            return None

    def save_caught_up(self, now: UnixTime) -> None:
        """This node has caught up now. Raises StorageError."""
        self._write(self.path / "caught_up", f"{int(now)}\n".encode())

    def comes_from_elsewhere(self) -> bool:
        """Whether another machine ran this directory last, as of a copied image. Notes this machine. Raises StorageError."""
        try:
            # machine-id(5): the ID itself is not to leave the machine.
            mine = blake2b(MACHINE_ID.read_bytes().strip(), digest_size=16, person=b"kdht").hexdigest()
        except OSError:  # a container has none
            return False
        before = (_read(self.path / "machine") or b"").strip()
        if before != mine.encode():
            self._write(self.path / "machine", mine.encode() + b"\n")
        return before not in (b"", mine.encode())

    def doubt_records(self, now: UnixTime) -> None:
        """Move all records out of the store's directory. Raises StorageError."""
        try:
            # First the records: after a crash between the two lines the next start finds no records, and
            # nothing to doubt.
            self.records.rename(self.path / f"doubted-{int(now)}")
            (self.path / "caught_up").unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.records, error) from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OSError as error:
            raise _unusable(path, error) from error


def _refuse_links(directory: Path) -> None:
    """Where another user owns the data directory, root writes into its files alone. Raises OSError, StorageError.

    LevelDB follows links, so an owner could choose with them which file of the host root replaces.
    """
    if directory.stat().st_uid in (0, os.geteuid()):
        return
    for folder, folders, names in os.walk(directory, followlinks=False):
        for path in (Path(folder, name) for name in folders + names):
            found = path.lstat()
            # A second name of a file (a hard link) may be that of another user's file.
            is_plain_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
            if not (is_plain_file or stat.S_ISDIR(found.st_mode)):
                raise StorageError(
                    f"{path}: a link or no plain file, in a directory of another user: "
                    "remove it, or run kdhtd as that user"
                )


def kept_node_id(directory: Path) -> bytes | None:
    """The ID in a data directory, None if there is none yet. Raises StorageDamaged, or StorageError."""
    path = directory / "node_id"
    text = _read(path)
    try:
        return None if text is None else _node_id(text.decode().strip())
    except ValueError:
        raise StorageDamaged(
            f"{path}: not {2 * ID_LEN} hex digits: remove it, and the node gets a new ID"
        ) from None


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SMALL_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def _node_id(text: str) -> bytes:
    node_id = bytes.fromhex(text)
    if len(node_id) != ID_LEN:
        raise ValueError(f"{text!r} is no node ID")
    return node_id


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: {error.strerror}: the daemon must be able to write its data directory")
