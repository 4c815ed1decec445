"""Exported records (`kdht.storage.exported`): from a daemon or a stopped node's store, and into one.

Raises ConfigError with the line.
"""

import base64
import binascii
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from kdht.cli import progress
from kdht.errors import BadPacket, ConfigError
from kdht.node.replicas.quorum_reads import untrusted_stored
from kdht.program import control_client
from kdht.program.answers import ExportPage
from kdht.program.json import decoded
from kdht.remedies import about_file
from kdht.storage import LevelStore, StoredRecord, Write
from kdht.storage.base import check as check_wishes
from kdht.storage.exported import FORMAT, Head, plain
from kdht.storage.versions import is_possible, latest_version
from kdht.times import UnixTime
from kdht.wire import RECORD
from kdht.wire._shared import REPLAY_WINDOW
from kdht.wire.limits import MAX_WIRE_EXPIRY

# Each batch is one synced write: with smaller ones an import would wait for the disk most of the time.
BATCH = 500
MAX_LINE = 1 << 16
"""A record's line has some 1700 bytes."""


class RecordLine(msgspec.Struct):
    """A record, or the end."""

    key: str = ""
    version: int = 0
    expiry: int = 0
    flags: int = 0
    value: str = ""
    records: int | None = None


def from_daemon(socket: Path) -> Iterator[dict[str, object]]:
    """A running daemon's records, page by page."""
    following: str | None = ""
    while following is not None:
        page = control_client.ask(socket, "export", ExportPage, start=following)
        yield from page.records
        following = page.next


def from_store(store: LevelStore) -> Iterator[dict[str, object]]:
    """A stopped node's."""
    return (plain(key, record) for key, record in store.scan(UnixTime(time.time())))


def check(path: Path) -> int:
    """Read all of it; how many records it has. Raises ConfigError."""
    return sum(1 for _ in _records(path, UnixTime(time.time())))


def read_into(store: LevelStore, path: Path, count: int) -> int:
    """Write all records; how many are now, or were already, the newest of their keys. Raises ConfigError."""
    now, newest, done = UnixTime(time.time()), 0, 0
    with progress.bar(f"importing {path}", count) as draw:
        for batch in _batches(_records(path, now)):
            results = store.apply(batch, now)
            newest += sum(result.accepted for result in results)
            done += len(batch)
            draw(done)
    return newest


def _batches(writes: Iterator[Write]) -> Iterator[list[Write]]:
    while batch := list(islice(writes, BATCH)):
        yield batch


def _records(path: Path, now: UnixTime) -> Iterator[Write]:
    """Every record, then the right end of the file."""
    try:
        with path.open("rb") as file:
            yield from _checked(file, path, now)
    except OSError as error:
        raise ConfigError(about_file(path, error)) from None


def _checked(file: BinaryIO, path: Path, now: UnixTime) -> Iterator[Write]:
    _check_head(file.readline(MAX_LINE), path)
    count, latest = 0, latest_version(now, REPLAY_WINDOW)
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 2):
        try:
            found = decoded(line, RecordLine)
            if found.records is not None:
                _check_end(found.records, count, file.read(1))
                return
            yield _write(found, latest)
        except (ValueError, BadPacket) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        count += 1
    raise ConfigError(f"{path} was cut short after {count} records: export it again")


def _check_head(line: bytes, path: Path) -> None:
    try:
        head = decoded(line, Head)
    except ValueError:
        raise ConfigError(
            f"{path} holds no exported records: use a file of `kdhtctl storage export`"
        ) from None
    if head != Head("records", FORMAT):
        raise ConfigError(
            f"{path} holds {head.kdht} of format {head.format}; this version reads records of format {FORMAT}"
        )


def _check_end(said: int, count: int, after: bytes) -> None:
    # Something behind the end is as wrong as too little: two files may have been put together.
    if said != count or after:
        raise ValueError(
            f"the file should end after {said} records, and has {count} or more: export it again"
        )


def _write(line: RecordLine, latest: int) -> Write:
    """The record of a line, which must be one that another node may send. Raises ValueError, BadPacket."""
    try:
        value = base64.b64decode(line.value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"`value` is not valid base64: {error}") from None
    record = StoredRecord(line.version, line.expiry, line.flags, value)
    write = Write(bytes.fromhex(line.key), record)
    # All checks of a record from another node: a file may come from anywhere, and a bad record would spread.
    check_wishes([write])
    if not is_possible(record, latest):
        raise ValueError(f"`version` is {line.version}, beyond this machine's clock: is its time right?")
    if line.expiry > MAX_WIRE_EXPIRY:
        raise ValueError(f"`expiry` is {line.expiry}: the last one is {MAX_WIRE_EXPIRY}")
    untrusted_stored(write.key, RECORD.pack(line.version, line.expiry, line.flags) + value)
    return write
