"""The seam of the storage: what a record is, what a write does to it, what a store offers.

The rule for one write is `settle`, here and nowhere else, so that LevelDB and its
in-memory twin cannot differ in it; the rule for a promise is `promises.grant`. Every read and write may raise StorageError.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from kdht.storage.promises import Granted, Pledges, Promise, hindering
from kdht.storage.record import TOMBSTONE, StoredRecord
from kdht.wire._shared import ID_BITS, ID_LEN, MAX_VALUE
from kdht.wire.limits import MAX_VERSION

MAX_FLAGS = 2**32 - 1
MAX_EXPIRY = 2**64 - 1

log = logging.getLogger(__name__)


class Write(NamedTuple):
    """`record` for the 20-byte `key`; a DELETE is a tombstone.

    With `nonce` it was decided by promises, and is done only where its own still holds.
    """

    key: bytes
    record: StoredRecord
    nonce: int | None = None


class Result(NamedTuple):
    """What became of a write."""

    accepted: bool
    """It stands, or stood there already."""
    existed: bool
    """The key had a record before that a reader could see."""
    version: int
    """The version that stands now, a tombstone's too; 0: none."""
    promised: int = 0
    """Of a write that was refused for a promise: the version that is promised."""


Wish = Write | Promise
Outcome = Result | Granted
"""Of a Write, and of a Promise."""


OnChange = Callable[[bytes, StoredRecord], None]
"""Hears of each record that a write changed, once it is safe; must not wait for the writer."""


class Stats(NamedTuple):
    """What is stored, expired records included until swept. `records` counts no tombstones."""

    records: int
    tombstones: int
    value_bytes: int
    disk_bytes: int
    detail: str
    """The database's own words about itself; may be empty."""


class Store(Protocol):
    """Records by key. Reads may come from any thread, also while another one writes.

    Records that have expired are seen by nobody. Tombstones are records: who reads for a client
    takes `visible`.
    """

    on_change: OnChange | None
    """Called by `apply`, on its thread, before it returns; what it raises is logged."""

    def get(self, key: bytes, now: float) -> StoredRecord | None:
        """The record, or None where there is none or it has expired."""

    def get_many(self, keys: Sequence[bytes], now: float) -> list[StoredRecord | None]:
        """As `get`, in the order of `keys`. One damaged record fails the call."""

    def apply(self, wishes: Sequence[Wish], now: float) -> list[Outcome]:
        """All writes and promises, in order, or none (StorageError). Returns once they are safe on disk.

        Which of them are accepted is said by `settle` and `grant`. A record that stands already is not
        written again. Raises ValueError for a write that no store may hold.
        """

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        """Forget records, without a tombstone, that still have the version given: handed off.

        The number dropped. Not synced: what a crash brings back is handed off again.
        """

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Remove up to `limit` expired records; the number removed. Costs nothing else."""

    def scan(
        self, now: float, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, StoredRecord]]:
        """Live records and tombstones in a range, in key order, as they were at the first step."""

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Give the files back. Closing twice is fine; no other call may follow or be under way."""


def alive(record: StoredRecord | None, now: float) -> StoredRecord | None:
    """The record, unless it has expired."""
    return None if record is None or 0 < record.expiry <= now else record


def visible(record: StoredRecord | None, now: float) -> StoredRecord | None:
    """The record as a reader sees it: None if it has expired or is a tombstone."""
    return None if record is None or record.flags & TOMBSTONE or 0 < record.expiry <= now else record


def newer(one: StoredRecord, other: StoredRecord) -> bool:
    """Whether `one` wins over `other`: a total order of all records, the same on every node."""
    return one.version > other.version or (one.version == other.version and _rank(one) > _rank(other))


def _rank(record: StoredRecord) -> tuple[bool, bytes, int, int]:
    """Among records of one version."""
    return record.deleted, record.value, record.expiry, record.flags


def settle(
    previous: StoredRecord | None, write: Write, now: float, pledges: Pledges = ()
) -> tuple[StoredRecord | None, Result]:
    """What stands in the store after `write`, where `previous` stood, and what to tell the writer.

    Last writer wins: `previous` stands where it is newer, expired or not. What stands already is accepted again;
    two tries of one write may differ in the expiry, and the later one stands. `pledges` are the live promises of the key.
    """
    _, record, nonce = write
    existed, standing = False, 0
    if previous is not None:
        existed, standing = visible(previous, now) is not None, previous.version
        if standing == record.version and _same(previous, record):
            stands = previous if newer(previous, record) else record
            return stands, Result(True, existed, standing)
        if newer(previous, record):
            return previous, Result(False, existed, standing)
    if nonce is not None:
        if not pledges or pledges[-1][:3] != (record.version, nonce, standing):
            return previous, Result(
                False, existed, standing, pledges[-1].version if pledges else record.version
            )
    elif pledges and record.version < (promised := hindering(pledges, now)):
        return previous, Result(False, existed, standing, promised)
    return record, Result(True, existed, record.version)


def _same(one: StoredRecord, other: StoredRecord) -> bool:
    """Whether they, of one version, are of one write."""
    return one.value == other.value and one.flags == other.flags


def check(wishes: Sequence[Wish]) -> None:
    """Raises ValueError for what does not fit the layout; nothing may be written then."""
    for wish in wishes:
        if isinstance(wish, Promise):
            _check_promise(wish)
        else:
            _check_write(wish)


def _check_promise(promise: Promise) -> None:
    if (
        len(promise.key) != ID_LEN
        or not 0 < promise.version <= MAX_VERSION
        or not 0 <= promise.nonce <= MAX_VERSION
    ):
        raise ValueError(f"no promise can be {promise}")


def _check_write(write: Write) -> None:
    key, (version, expiry, flags, value), _ = write
    if len(key) != ID_LEN:
        raise ValueError(f"a key has {ID_LEN} bytes, not {len(key)}")
    if not 0 < version <= MAX_VERSION:
        raise ValueError(f"a version is a number from 1 to {MAX_VERSION}, not {version}")
    if len(value) > MAX_VALUE:
        raise ValueError(f"a value has at most {MAX_VALUE} bytes, not {len(value)}")
    if not (0 <= expiry <= MAX_EXPIRY and 0 <= flags <= MAX_FLAGS):
        raise ValueError(f"expiry {expiry} or flags {flags} out of range")


def tell(on_change: OnChange | None, changes: Sequence[tuple[bytes, StoredRecord]]) -> None:
    """Tell of records that are safe now: nothing may keep their writers from hearing of it."""
    if on_change is None:
        return
    for key, record in changes:
        try:
            on_change(key, record)
        except Exception:
            log.exception("the hook of a change failed")


def in_range(key: bytes, start: bytes, stop: bytes | None) -> bool:
    """Whether start <= key < stop; None: there is no end."""
    return start <= key and (stop is None or key < stop)


def neighbourhood(key: bytes, bits: int) -> tuple[bytes, bytes | None]:
    """The range, for `scan`, of all keys that share the first `bits` bits with `key`."""
    rest = ID_BITS - bits
    first = int.from_bytes(key, "big") >> rest << rest
    after = first + (1 << rest)
    stop = None if after >> ID_BITS else after.to_bytes(ID_LEN, "big")
    return first.to_bytes(ID_LEN, "big"), stop
