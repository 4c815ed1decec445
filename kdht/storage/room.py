"""Whether there is room for a record: quotas of the node, of each writer, and free space on the disk.

As room runs out, first clients' values are refused, then new records that other nodes send, last deletions and newer records of a key. So deletions help, and
replicas still get what was confirmed elsewhere.

What is exact: the node's counts are those of the database, looked at before each group of writes. A group of writes (512 at most)
may go beyond a quota. What is not: a writer's share counts the records that came in through this node since it started, each at
its size when it was new. It is halved each day, because nobody tells when such a record ends. A client that asks all nodes may
keep that much at each.

Contract: no clock. Thread-safe: each field is always valid by itself. `free` looks at the disk.
"""

import os
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from kdht.times import UnixTime

# Not each time: statvfs would be a system call for each group of writes.
LOOK_SECONDS = 0.25
"""Between two looks at the disk. Less than a disk of some MiB/s needs to fill the space below `min_free`."""
HALF_LIFE = 86400.0
# A forger with many addresses must not fill the memory. Who writes often is at the end of the list and stays.
MAX_WRITERS = 16384
"""Writers that are told apart. The one longest in the list is forgotten."""
MIB = 1 << 20
# The bytes that LevelDB writes for each byte of data fall as it grows (bench/notes/put.md). It takes memory only as it fills.
WRITE_BUFFER = 32 * MIB
"""Of LevelDB, in bytes: records that it keeps in memory and in its log before it makes a table of them."""
LEAST_BUFFER = 2 * MIB
BUFFERS_ON_DISK = 16
"""A small disk has at least so many write buffers: two logs, their tables and a merge of these have to fit."""


class Limits(NamedTuple):
    """0: no limit. Bytes are those of values."""

    value_bytes: int = 0
    records: int = 0
    writer_bytes: int = 0
    writer_records: int = 0
    max_ttl: int = 0
    """Seconds."""
    min_free: int = 0
    """Bytes of free space on the disk. On a small disk five eighths of it are enough."""
    write_buffer: int = WRITE_BUFFER
    """LevelDB's, in bytes. Its log grows to that size."""


class Space(NamedTuple):
    """Of a file system, in bytes. `size` 0: unknown."""

    free: int
    size: int


NO_LIMITS = Limits()
UNBOUNDED = Space(1 << 62, 1 << 62)


class Pressure(IntEnum):
    """What is refused."""

    NONE = 0
    CLIENTS = 1
    """Values of clients."""
    MEMBERS = 2
    """Values of other nodes too."""
    ALL = 3
    """Deletions too."""


class Room:
    """The room of one store."""

    def __init__(self, limits: Limits, free: Callable[[], Space]) -> None:
        self.limits = limits
        self.pressure = Pressure.NONE
        self.why = ""
        """In words, for the operator. Empty if nothing is refused."""
        self.space = UNBOUNDED
        self.refused = 0
        """Writes refused so far."""
        self._free = free
        self._looked = UnixTime(-1.0)
        self._held = (0, 0)
        self._writers = Writers(limits)

    def measure(self, records: int, value_bytes: int, now: UnixTime) -> None:
        """Note what the database holds."""
        self._held = records, value_bytes
        self.look(now)

    def look(self, now: UnixTime) -> None:
        """Look at the disk, unless that was just done, and find out what has room."""
        limits, (records, value_bytes) = self.limits, self._held
        # A clock that was set back would else stop all looks until it has caught up.
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._looked = now
            self.space = self._free()
        elif not (limits.value_bytes or limits.records):
            return  # what is held does not matter
        found = [
            (_by_quota(value_bytes, limits.value_bytes), "storage.quota is reached"),
            (_by_quota(records, limits.records), "storage.quota_records is reached"),
            (_by_space(self.space, limits), f"{self.space.free // MIB} MiB are free on its disk"),
        ]
        # The worst one decides: room by one measure does not help if another is full.
        self.pressure, why = max(found, key=lambda each: each[0])
        self.why = why if self.pressure else ""

    def takes(self, *, deleted: bool, replaces: bool) -> bool:
        """Whether a record of another node, or one that was let in here, has room. `replaces`: there is an older one.

        Else readers would be given the older one for long.
        """
        good = self.pressure < (Pressure.ALL if deleted or replaces else Pressure.MEMBERS)
        self.refused += not good
        return good

    def lets_in(self, who: bytes, size: int, ttl: int, now: UnixTime) -> bool:
        """Whether a client's value has room. `ttl` 0: no end. `who` wrote it: an address, or the holder of a token."""
        # A client that freed space, or waited, should not be refused by an old look.
        if self.pressure:
            self.look(now)
        most = self.limits.max_ttl
        good = not self.pressure and not (most and not 0 < ttl <= most) and self._writers.have(who, size, now)
        self.refused += not good
        return good

    def lets_all_in(self) -> bool:
        """Whether `lets_in` is certain, for every client and value."""
        limits = self.limits
        return not (self.pressure or limits.max_ttl or limits.writer_bytes or limits.writer_records)

    def wrote(self, who: bytes, size: int, now: UnixTime) -> None:
        """A client's value was stored where none was."""
        self._writers.add(who, 1, size, now)

    def deleted(self, who: bytes, now: UnixTime) -> None:
        """A client deleted a record. It counts as one of average size."""
        self._writers.remove(who, now)

    def has_room_to_reopen(self) -> bool:
        """Whether a database has room to write what it has in memory."""
        space = self._free()
        # Two write buffers become tables before their logs are removed.
        return space.free >= min(2 * self.limits.write_buffer + 2 * LEAST_BUFFER, space.size // 4)


class Writers:
    """How much each writer has, about."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._of: dict[bytes, tuple[float, float, float]] = {}
        """Records, bytes, and when that was."""

    def have(self, who: bytes, size: int, now: UnixTime) -> bool:
        """Whether this writer has room for one more record."""
        limits = self._limits
        if not (limits.writer_bytes or limits.writer_records):
            return True
        with self._lock:
            records, value_bytes = self._now(who, now)
        return not (
            (limits.writer_records and records + 1 > limits.writer_records)
            or (limits.writer_bytes and value_bytes + size > limits.writer_bytes)
        )

    def add(self, who: bytes, records: int, size: int, now: UnixTime) -> None:
        if not (self._limits.writer_bytes or self._limits.writer_records):
            return
        with self._lock:
            had, value_bytes = self._now(who, now)
            # Out and in again, so that the dictionary's order is that of the last writes.
            self._of.pop(who, None)
            if len(self._of) >= MAX_WRITERS:
                del self._of[next(iter(self._of))]
            self._of[who] = had + records, value_bytes + size, now

    def remove(self, who: bytes, now: UnixTime) -> None:
        with self._lock:
            records, value_bytes = self._now(who, now)
            if records > 0:
                # The size of what was deleted is not known here: the record is gone already.
                left = max(records - 1, 0.0)
                self._of[who] = left, value_bytes * left / records, now

    def _now(self, who: bytes, now: UnixTime) -> tuple[float, float]:
        records, value_bytes, then = self._of.get(who, (0.0, 0.0, now))
        # Computed when it is needed, so that no timer has to walk the writers.
        left = 0.5 ** (max(now - then, 0.0) / HALF_LIFE)
        return records * left, value_bytes * left


def disk_space(path: str) -> Callable[[], Space]:
    """A look at the file system of `path`. Where that fails, there is room: the write itself will tell."""

    def look() -> Space:
        try:
            found = os.statvfs(path)
        except OSError:
            return UNBOUNDED
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    return look


def boundless() -> Room:
    """For stores without files, and for tools that only read or restore."""
    return Room(NO_LIMITS, lambda: UNBOUNDED)


def _by_quota(held: int, quota: int) -> Pressure:
    # Other nodes' records get an eighth more than clients': replicas need not refuse what a full coordinator let in.
    if not quota or held < quota:
        return Pressure.NONE
    return Pressure.MEMBERS if held >= quota + quota // 8 else Pressure.CLIENTS


def buffer_for(wanted: int, space: Space) -> int:
    """The write buffer in bytes: as large as wanted, on a small disk less."""
    return max(min(wanted, space.size // BUFFERS_ON_DISK), LEAST_BUFFER)


def _by_space(space: Space, limits: Limits) -> Pressure:
    # LevelDB writes merged tables before it removes the old ones. That takes as much room as a small database has.
    least = min(limits.min_free, space.size * 5 // 8)
    # With less than its write buffer, which its log grows to, LevelDB fails in the middle of a deletion.
    if space.free < min(limits.write_buffer, least // 4):
        return Pressure.ALL
    if space.free < least // 2:
        return Pressure.MEMBERS
    return Pressure.CLIENTS if space.free < least else Pressure.NONE
