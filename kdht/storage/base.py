"""The seam of the storage: what a record is, what a write does to it, what a store offers.

The rule for one write is `settle`, here and nowhere else, so that LevelDB and its
in-memory twin cannot differ in it. Every read and write may raise StorageError.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from kdht._shared import ID_BITS, ID_LEN, MAX_VALUE

MAX_FLAGS = 2**32 - 1
MAX_EXPIRY = 2**64 - 1


class Stored(NamedTuple):
    """A record: version (u64), expiry (unix seconds, u64, 0: none), flags (u32), value."""

    version: int
    expiry: int
    flags: int
    value: bytes


class Write(NamedTuple):
    """A PUT of `value`, or a DELETE where it is None. `key` has 20 bytes."""

    key: bytes
    value: bytes | None
    expiry: int = 0
    flags: int = 0


class Result(NamedTuple):
    """What a write did: whether the key had a record before, and the version it has now (0: none)."""

    existed: bool
    version: int


class Stats(NamedTuple):
    """`records` and `value_bytes` count what is stored, expired records included until swept."""

    records: int
    value_bytes: int
    disk_bytes: int
    detail: str
    """The database's own words about itself; may be empty."""


class Store(Protocol):
    """Records by key. Reads may come from any thread, also while another one writes."""

    def get(self, key: bytes, now: float) -> Stored | None:
        """The record, or None where there is none or it has expired."""

    def get_many(self, keys: Sequence[bytes], now: float) -> list[Stored | None]:
        """As `get`, in the order of `keys`. One damaged record fails the call."""

    def apply(self, writes: Sequence[Write], now: float) -> list[Result]:
        """All writes, in order, or none (StorageError). Returns once they are safe on disk.

        A PUT's version is above the one before it, also when the clock went back.
        Raises ValueError for a write that no store may hold.
        """

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Remove up to `limit` expired records; the number removed. Costs nothing else."""

    def scan(
        self, now: float, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, Stored]]:
        """Live records with start <= key < stop, in key order, as they were at the first step."""

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Give the files back. Closing twice is fine; no other call may follow or be under way."""


def alive(record: Stored | None, now: float) -> Stored | None:
    """The record, unless it has expired."""
    return None if record is None or 0 < record.expiry <= now else record


def settle(previous: Stored | None, write: Write, now: float) -> tuple[Stored | None, Result]:
    """What stands in the store after `write`, where `previous` stood, and what to tell the writer.

    A PUT's version is the time in microseconds, or the next number after the previous
    version if that is higher: versions of one key rise even when the clock goes back.
    """
    existed = alive(previous, now) is not None
    if write.value is None:
        return None, Result(existed, 0)
    version = max(previous.version + 1 if previous else 0, int(now * 1_000_000))
    return Stored(version, write.expiry, write.flags, write.value), Result(existed, version)


def check(writes: Sequence[Write]) -> None:
    """Raises ValueError for a write that does not fit the layout; nothing may be written then."""
    for key, value, expiry, flags in writes:
        if len(key) != ID_LEN:
            raise ValueError(f"a key has {ID_LEN} bytes, not {len(key)}")
        if value is not None and len(value) > MAX_VALUE:
            raise ValueError(f"a value has at most {MAX_VALUE} bytes, not {len(value)}")
        if not (0 <= expiry <= MAX_EXPIRY and 0 <= flags <= MAX_FLAGS):
            raise ValueError(f"expiry {expiry} or flags {flags} out of range")


def neighbourhood(key: bytes, bits: int) -> tuple[bytes, bytes | None]:
    """The range, for `scan`, of all keys that share the first `bits` bits with `key`."""
    rest = ID_BITS - bits
    first = int.from_bytes(key, "big") >> rest << rest
    after = first + (1 << rest)
    stop = None if after >> ID_BITS else after.to_bytes(ID_LEN, "big")
    return first.to_bytes(ID_LEN, "big"), stop
