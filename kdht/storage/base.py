"""The interface of a store, and the rule for one write.

The rule is `settle`. LevelDB and the in-memory twin both call it, so they cannot differ. The rule for a
promise is `promises.grant`. Every read and write may raise StorageError.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.storage.promises import Granted, Pledges, Promise, hindering
from kdht.storage.record import TOMBSTONE, StoredRecord
from kdht.storage.room import Room
from kdht.storage.versions import is_possible, micros
from kdht.times import UnixTime
from kdht.wire._shared import ID_BITS, ID_LEN, MAX_VALUE
from kdht.wire.limits import MAX_VERSION

MAX_FLAGS = 2**32 - 1
MAX_EXPIRY = 2**64 - 1

log = logging.getLogger(__name__)


class Write(NamedTuple):
    """Put `record` at the 20-byte `key`. A DELETE puts a tombstone.

    `nonce` marks a write that promises have decided. It is accepted only while its own promise holds.
    A `soft` write may be acknowledged before it is on the disk. It is on the disk at the latest with the next one that is not.
    """

    key: bytes
    record: StoredRecord
    nonce: int | None = None
    soft: bool = False


class Result(NamedTuple):
    """The outcome of a write."""

    accepted: bool
    """The store has the record now, or had it already."""
    existed: bool
    """A reader could see a record of the key before."""
    version: int
    """The version in the store now, that of a tombstone too. 0: there is no record."""
    promised: int = 0
    """The promised version, if a promise refused the write. The time as a version, if the write's own version is beyond
    what any clock may say."""
    full: bool = False
    """There is no room for it."""


Wish = Write | Promise
Outcome = Result | Granted
"""A Write has a Result, a Promise has a Granted."""


OnChange = Callable[[bytes, StoredRecord], None]
"""Called with each record that a write changed, once it is on disk; after a group of soft writes, once it can be read. It must
not wait for the writer. Exceptions are logged."""


class Stats(NamedTuple):
    """What is stored. Expired records count until a sweep removes them; `records` does not count tombstones."""

    records: int
    tombstones: int
    value_bytes: int
    disk_bytes: int
    detail: str
    """LevelDB's own table of statistics. May be empty."""


class Store(Protocol):
    """Records by key. Any thread may read, also while another one writes.

    Expired records are invisible, and so are records with a version beyond what a clock may say (`versions`). Tombstones are
    records too: code that reads for a client filters with `visible`.
    """

    room: Room

    def get(self, key: bytes, now: UnixTime) -> StoredRecord | None:
        """The record, or None if there is none or it has expired."""

    def get_many(self, keys: Sequence[bytes], now: UnixTime) -> list[StoredRecord | None]:
        """As `get`, in the order of `keys`. One damaged record fails the whole call."""

    def reader(self, cache: RecordCache | None, is_caught_up: Callable[[bytes], bool]) -> StoreReader:
        """A reader for GETs, for one thread at a time. `cache`: where it puts the records that it reads.
        `is_caught_up`: whether this store alone may answer for a key."""

    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        """Do all writes and promises, in order, or none of them (StorageError). Returns after the sync; if all are soft writes,
        without one.

        `settle` and `grant` decide which are accepted. A duplicate of a synced record is accepted without another sync.
        `on_change` is called on the same thread before this returns. None: nobody else uses the store.
        Raises ValueError for a write that does not fit the layout.
        """

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        """Remove records that were handed off, without a tombstone, if they still have the given version.

        Returns how many. Not synced: records that a crash brings back are handed off again.
        """

    def sweep(self, now: UnixTime, limit: int = 1000) -> int:
        """Remove up to `limit` expired records. Returns how many. It does not read the others."""

    def scan(
        self, now: UnixTime, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, StoredRecord]]:
        """Live records and tombstones in a range, in key order. A snapshot, taken at the first step."""

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Close the files. A second call is a no-op. No other call may run meanwhile or follow."""


def alive(record: StoredRecord | None, now: UnixTime, latest: int) -> StoredRecord | None:
    """The record, unless it has expired or its version is beyond `latest` (`versions.latest_readable`)."""
    if record is None or 0 < record.expiry <= now or not is_possible(record, latest):
        return None
    return record


def visible(record: StoredRecord | None, now: UnixTime) -> StoredRecord | None:
    """The record as a reader sees it: None if it has expired or is a tombstone."""
    return None if record is None or record.flags & TOMBSTONE or 0 < record.expiry <= now else record


def newer(one: StoredRecord, other: StoredRecord) -> bool:
    """Whether `one` wins over `other`: a total order of all records, the same on every node."""
    # One order for the store, repair and reads: with two orders, two nodes could each keep their own record for
    # ever.
    return one.version > other.version or (one.version == other.version and _rank(one) > _rank(other))


def _rank(record: StoredRecord) -> tuple[bool, bytes, int, int]:
    """Among records of one version."""
    # Any fixed order will do: two records of one version must not win on different nodes.
    # No end is the latest end: else a copy with a TTL would end a record that has none.
    return record.deleted, record.value, record.expiry or MAX_EXPIRY, record.flags


def settle(
    previous: StoredRecord | None, write: Write, now: UnixTime, latest: int, pledges: Pledges = ()
) -> tuple[StoredRecord | None, Result]:
    """The record that the store keeps after `write`, and the answer to the writer.

    Last writer wins: a newer `previous` stays, expired or not. `pledges` are the live promises of the key. `latest`: as in
    `versions`; `previous` is possible.
    """
    record, nonce = write.record, write.nonce
    existed, standing = False, 0
    if previous is not None:
        existed, standing = visible(previous, now) is not None, previous.version
    # First of all: a version of the far future would win against every later write of the key.
    if not is_possible(record, latest):
        return previous, Result(False, existed, standing, micros(now))
    if previous is not None:
        if standing == record.version and _same(previous, record):
            # A later try of the same write. Tries may differ in the expiry, since each try counts its TTL
            # from its own arrival; the later expiry wins.
            stands = previous if newer(previous, record) else record
            return stands, Result(True, existed, standing)
        # The greater version wins in any order of arrival, so all replicas end with the same record.
        if newer(previous, record):
            return previous, Result(False, existed, standing)
    if nonce is not None:
        # The decision holds only if this replica gave no later promise, and if the record that it noted
        # with its promise is still here.
        if not pledges or pledges[-1][:3] != (record.version, nonce, standing):
            return previous, Result(
                False, existed, standing, pledges[-1].version if pledges else record.version
            )
    # A plain write in between would make the condition that is being decided false after the fact.
    elif pledges and record.version < (promised := hindering(pledges, now)):
        return previous, Result(False, existed, standing, promised)
    return record, Result(True, existed, record.version)


def _same(one: StoredRecord, other: StoredRecord) -> bool:
    """Whether two records of one version come from one write."""
    return one.value == other.value and one.flags == other.flags


def without_room(result: Result, previous: StoredRecord | None) -> Result:
    """The answer to a write that `settle` accepts, and that has no room."""
    standing = previous.version if previous is not None else 0
    return result._replace(accepted=False, version=standing, full=True)


def all_soft(wishes: Sequence[Wish]) -> bool:
    """Whether these may be acknowledged before they are on the disk."""
    return all(isinstance(wish, Write) and wish.soft for wish in wishes)


def check(wishes: Sequence[Wish]) -> None:
    """Raises ValueError for a wish that does not fit the layout. Nothing may be written then."""
    # All before the first is written: a batch is done whole or not at all.
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
        raise ValueError(f"not a valid promise: {promise}")


def _check_write(write: Write) -> None:
    key, (version, expiry, flags, value), *_ = write
    if len(key) != ID_LEN:
        raise ValueError(f"a key has {ID_LEN} bytes, not {len(key)}")
    if not 0 < version <= MAX_VERSION:
        raise ValueError(f"a version is a number from 1 to {MAX_VERSION}, not {version}")
    if len(value) > MAX_VALUE:
        raise ValueError(f"a value has at most {MAX_VALUE} bytes, not {len(value)}")
    if not (0 <= expiry <= MAX_EXPIRY and 0 <= flags <= MAX_FLAGS):
        raise ValueError(f"expiry {expiry} or flags {flags} out of range")


def tell(on_change: OnChange | None, changes: Sequence[tuple[bytes, StoredRecord]]) -> None:
    """Call `on_change` for records that are on disk now. An exception may not keep the writers from their answer."""
    if on_change is None:
        return
    for key, record in changes:
        try:
            on_change(key, record)
        except Exception:
            log.exception("the callback of a change failed")


def in_range(key: bytes, start: bytes, stop: bytes | None) -> bool:
    """Whether start <= key < stop. `stop` None: no end."""
    return start <= key and (stop is None or key < stop)


def neighbourhood(key: bytes, bits: int) -> tuple[bytes, bytes | None]:
    """The range, for `scan`, of all keys that share the first `bits` bits with `key`."""
    rest = ID_BITS - bits
    # As numbers: the border of a neighbourhood lies within a byte.
    first = int.from_bytes(key, "big") >> rest << rest
    after = first + (1 << rest)
    stop = None if after >> ID_BITS else after.to_bytes(ID_LEN, "big")
    return first.to_bytes(ID_LEN, "big"), stop
