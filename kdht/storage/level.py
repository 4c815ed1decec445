"""The store in LevelDB, through plyvel.

Every read verifies the block's checksum. One lock orders the writers; readers take no lock. LevelDB's own
lock keeps other processes out.

The first failed write is the last: reads go on, writes fail until the database is opened again (`recover`). A failed write
(a full disk) may leave half a record at the end of LevelDB's log. LevelDB would append behind it and confirm.
The next start cannot read past the half record, so it would lose every write that was confirmed after it.
"""

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from types import TracebackType

import plyvel

from kdht.errors import StorageError
from kdht.storage import files, formats, layout, witness
from kdht.storage._cache import RecordCache
from kdht.storage._change import StoreChange, check
from kdht.storage._known_keys import KnownKeys
from kdht.storage._reader import StoreReader
from kdht.storage.audit import Audit, audit
from kdht.storage.base import OnChange, Outcome, Stats, Wish, alive, all_soft, tell
from kdht.storage.learning import AT_ONCE, learn
from kdht.storage.promises import Pledges, live, unpack
from kdht.storage.record import Replaced, StoredRecord
from kdht.storage.reopen import CLOSED, Reopening, is_released, takes_writes
from kdht.storage.room import Room, boundless
from kdht.storage.versions import ANY_VERSION, latest_readable, latest_version
from kdht.storage.witness import Witness
from kdht.times import UnixTime
from kdht.wire._shared import REPLAY_WINDOW

# The lock is held for one batch. A handoff of many thousand records would else hold up all writes.
DROPPED_AT_ONCE = 1000


class LevelStore:
    """The database in the directory `path`. Makes the directory if it is missing. `window`: as in `versions`.

    Raises StorageLocked (another process has it open), StorageDamaged, and StorageError for other errors.
    """

    def __init__(
        self, path: str | os.PathLike[str], window: int = REPLAY_WINDOW, room: Room | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.room = room or boundless()
        self._window = window
        self._lock = threading.Lock()
        self._errors = _Errors(self.path)
        self._failed = False
        self.syncs = 0
        """Of batches, since the start."""
        self._soft = 0
        """The number of the last batch that was not synced."""
        self.set_aside = 0
        """Records with impossible versions that gave their places away, since the start."""
        # LevelDB does not say whether a failed write reached the disk. Its keys must count as changed, or the
        # cache and repair would be wrong.
        self._failed_keys: tuple[bytes, ...] = ()
        """Keys of the failed write. Whether it is on the disk shows after `recover`."""
        self._reopening = Reopening()
        self._db: plyvel.DB
        self._open()

    def _open(self) -> None:
        with self._errors:
            # All checks of the files come before LevelDB opens them: it deletes what it takes for left over.
            had_tables = files.prepare(self.path)
            # Before LevelDB replays its logs and removes them.
            witness.check_logs(self.path)
            self._db = files.open_db(self.path, self.room.limits.write_buffer)
        try:
            with self._errors:
                files.check_tables(self._db, self.path)
                # Before anything else is read: a database of an older format has other entries.
                formats.check(self._db, self.path, had_tables)
                self._serial = self._synced = self._read_serial()
                witness.check_serial(self.path, self._serial)
                self._witness = Witness(self.path)
                # From their entry. Counting the records would make a start as long as the database is large.
                self._counts = self._read_counts()
                self._promised = self._read_promises()
                self._known = KnownKeys()
                learn(self._db, self._known, self._counts.records)
        except StorageError:
            self._db.close()
            raise

    @property
    def failed(self) -> bool:
        """Whether a write failed, so that no more are accepted before `recover`."""
        return self._failed

    def recover(self, now: UnixTime, on_change: OnChange) -> bool:
        """After a failed write: open the database again, once its disk takes writes. Returns whether writes are accepted.

        `on_change` hears of the records of the failed write, if they are there. Nothing that was confirmed is lost: after a
        failed write nothing was confirmed. Raises StorageError if the database cannot be opened; a later call may.
        """
        with self._lock:
            if not self._failed:
                return True
            if not (
                # LevelDB writes its memory to a table when it opens. On a disk that is still full that would
                # fail again, and leave half a table.
                self._reopening.is_due(now) and self.room.has_room_to_reopen() and takes_writes(self.path)
            ):
                return False
            # The data directory's own lock (`DataDir`) keeps other daemons out meanwhile.
            if not self._close_unused():
                return False
            self._open()
            self._failed = False
            keys, self._failed_keys = self._failed_keys, ()
        records = zip(keys, self.get_many(keys, now), strict=True)
        tell(on_change, [(key, record) for key, record in records if record is not None])
        return True

    def _close_unused(self) -> bool:
        """Close the database once no other thread reads it. False, and it stays open, if that takes too long."""
        # A list, so that the count of references can be taken while this method holds just one. plyvel crashes
        # if a database is closed under a reader.
        held = [self._db]
        self._db = CLOSED
        # A read of an absent key must fail too, while there is no database.
        self._known = KnownKeys()
        if held[0] is not CLOSED and not is_released(held):
            self._db = held[0]
            return False
        held[0].close()
        return True

    def get(self, key: bytes, now: UnixTime) -> StoredRecord | None:
        return self.get_many((key,), now)[0]

    def get_many(self, keys: Sequence[bytes], now: UnixTime) -> list[StoredRecord | None]:
        # Looked up once for all keys of a batch. Each attribute costs as much as a small read from LevelDB's
        # memory.
        read, prefix, unpack = self._db.get, layout.RECORD, layout.unpack_record
        may_have = self._known.may_have
        latest = latest_readable(now)
        with self._errors:
            return [
                None
                if not may_have(key) or (raw := read(prefix + key, verify_checksums=True)) is None
                else alive(unpack(raw), now, latest)
                for key in keys
            ]

    def reader(self, cache: RecordCache | None, is_caught_up: Callable[[bytes], bool]) -> StoreReader:
        return StoreReader(self._packed, cache, is_caught_up)

    def _packed(self, key: bytes) -> bytes | None:
        if not self._known.may_have(key[len(layout.RECORD) :]):
            return None
        # Not a method of the database: `recover` puts another one in its place.
        packed: bytes | None = self._db.get(key, verify_checksums=True)
        return packed

    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        check(wishes)
        with self._lock, self._errors:
            self._measure(now)
            # Reads and decisions happen under the lock, in the order of the wishes: the next writer must see
            # what this one decides.
            latest = latest_version(now, self._window)
            change = StoreChange(self._db.get, self._known, latest, self._promised)
            outcomes, changes = change.apply(wishes, now, self.room)
            self._commit(change, sync=not all_soft(wishes))
            # After the sync, so the file is never ahead of the disk: a crash in between makes no healthy
            # database look damaged.
            self._witness.note(self._synced, now)
            self._measure(now)
        # Outside of the lock: callbacks take other locks, and whoever holds those may wait for this store.
        tell(on_change, changes)
        return outcomes

    def look(self, now: UnixTime) -> None:
        """Find out what has room now."""
        with self._lock:
            self._measure(now)

    def learn_keys(self, limit: int) -> bool:
        """Read up to `limit` more keys, so that a read of an absent one need not ask LevelDB. Returns whether all are known.

        After each start the keys are unknown; the memory for them is bounded (`_known_keys`).
        """
        for _ in range(0, limit, AT_ONCE):
            with self._lock, self._errors:
                if self._failed or learn(self._db, self._known, self._counts.records):
                    break
        return self._known.complete

    def _measure(self, now: UnixTime) -> None:
        records, value_bytes, tombstones = self._counts
        self.room.measure(records - tombstones, value_bytes, now)

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        dropped = 0
        for first in range(0, len(keys), DROPPED_AT_ONCE):
            with self._lock, self._errors:
                change = StoreChange(self._db.get, self._known, ANY_VERSION)
                for key, version in keys[first : first + DROPPED_AT_ONCE]:
                    record = change.standing(key)
                    # A newer record may have come since the handoff began. It was confirmed by nobody else yet.
                    if record is not None and record.version == version:
                        change.put(key, None)
                dropped += self._commit(change, sync=False)
        return dropped

    def sweep(self, now: UnixTime, limit: int = 1000) -> int:
        """As Store.sweep. Not synced: records that a crash brings back have expired and are swept again."""
        # The index is sorted by expiry, so a sweep reads the expired entries alone, however many records there
        # are.
        stop = layout.expiry_key(int(now) + 1, b"")
        with self._lock, self._errors:
            change = StoreChange(self._db.get, self._known, ANY_VERSION)
            due = self._db.iterator(
                start=layout.EXPIRY, stop=stop, include_value=False, verify_checksums=True
            )
            with closing(due) as entries:
                for entry in islice(entries, limit):
                    expiry, key = layout.split_expiry_key(entry)
                    record = change.standing(key)
                    # A later write may have another expiry, with an index entry of its own.
                    if record is not None and record.expiry == expiry:
                        change.put(key, None)
                    else:
                        change.drop_entry(entry)
            # Promises expire too. Without this, each key that was ever written under a condition would stay in
            # memory.
            for key, pledges in self._promised.items():
                kept = live(pledges, now)
                if kept != pledges:
                    change.pledge(key, kept)
            return self._commit(change, sync=False)

    def scan(
        self, now: UnixTime, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, StoredRecord]]:
        latest = latest_readable(now)
        with self._errors:
            for key, raw in self._raw(start, stop):
                record = layout.unpack_record(raw)
                if alive(record, now, latest):
                    yield key, record

    def stats(self) -> Stats:
        with self._errors:
            detail = self._db.get_property(b"leveldb.stats") or b""
            records, value_bytes, tombstones = self._counts
            size = files.disk_bytes(self.path)
            return Stats(records - tombstones, tombstones, value_bytes, size, detail.decode().strip("\n"))

    def compact(self) -> None:
        """Rewrite the tables without replaced and deleted records. Reads and writes go on meanwhile."""
        with self._errors:
            # First what is in memory, so that the marks of `mark_ends` come above all tables.
            files.flush(self._db)
            with self._lock, self._writing():
                files.mark_ends(self._db)
            files.rewrite(self._db)
            with self._lock:
                self._witness.save(self._synced)

    def audit(self, now: UnixTime) -> Audit:
        """Check the whole database. Nobody may write meanwhile."""
        with self._errors, closing(self._db.iterator(verify_checksums=True)) as entries:
            return audit(entries, self._counts, latest_version(now, self._window))

    def close(self) -> None:
        with self._lock:
            self._witness.save(self._synced)
            self._known = KnownKeys()
            self._db.close()

    def _raw(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Keys and packed records in a range, in key order. A snapshot, taken at the first step."""
        # Records, index, counts and promises share one key space, so the range needs the prefix at both ends.
        first = layout.RECORD + start
        end = layout.RECORD_END if stop is None else layout.RECORD + stop
        # A long walk would push everything else out of the block cache.
        walk = self._db.iterator(start=first, stop=end, verify_checksums=True, fill_cache=False)
        with closing(walk) as entries:
            for entry, raw in entries:
                yield entry[len(layout.RECORD) :], raw

    def _read_serial(self) -> int:
        """The number of the last batch. Databases from before there were numbers begin with 0."""
        raw = self._db.get(layout.SERIAL_KEY, bytes(layout.SERIAL_VALUE.size), verify_checksums=True)
        return int(layout.SERIAL_VALUE.unpack(raw)[0])

    def _read_counts(self) -> layout.Counts:
        raw = self._db.get(layout.COUNTS_KEY, bytes(layout.COUNTS_VALUE.size), verify_checksums=True)
        return layout.Counts(*layout.COUNTS_VALUE.unpack(raw))

    def _read_promises(self) -> dict[bytes, Pledges]:
        """All promises. They stay in memory, because every write asks for those of its key. There are few."""
        walk = self._db.iterator(start=layout.PROMISE, stop=layout.PROMISE_END, verify_checksums=True)
        with closing(walk) as entries:
            return {entry[len(layout.PROMISE) :]: unpack(raw) for entry, raw in entries}

    def _commit(self, change: StoreChange, *, sync: bool) -> int:
        """Write a change to the disk, then to the counts and promises in memory. Returns how many records changed."""
        self._check_whole()
        replaced = change.replaced()
        # A duplicate needs no sync, for what can be read is synced. Unless it was soft: then this batch is written, if only for
        # its number, and syncs all before it.
        if change.is_empty(replaced) and not (sync and self._soft > self._synced):
            return 0
        try:
            self._write(change, replaced, sync)
        except Exception:
            self._failed_keys = tuple(key for key, _, _ in replaced)
            self._failed = True
            raise
        # Only after success. A number that was used for a failed batch is used again, so the log has no hole
        # that looks like a loss.
        self._serial += 1
        self.set_aside += change.set_aside(replaced)
        if sync:  # with it all earlier ones
            self._synced = self._serial
            self.syncs += 1
        else:
            self._soft = self._serial
        for key, pledges in change.pledged.items():
            if pledges:
                self._promised[key] = pledges
            else:
                self._promised.pop(key, None)
        return len(replaced)

    def _write(self, change: StoreChange, replaced: list[Replaced], sync: bool) -> None:
        # In the same batch as the records: counts cannot drift, and no start walks the database.
        self._counts = change.write(self._db, replaced, self._counts, self._serial + 1, sync=sync)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around a write to LevelDB's log that is no change of records."""
        self._check_whole()
        try:
            yield
        except Exception:
            self._failed_keys = ()
            self._failed = True
            raise

    def _check_whole(self) -> None:
        """Raises StorageError after a failed write: no more are accepted then (see above)."""
        if self._failed:
            raise StorageError(
                f"a write to {self.path} failed, so no more writes are accepted for now: "
                f"free space on its disk, and the node takes writes again"
            )


class _Errors:
    """Turns what plyvel, the operating system or a damaged record raises into a StorageError.

    A class, because a generator would cost more than the rest of a small write.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError | struct.error):
            raise layout.damaged(self._path, str(error)) from error
        if isinstance(error, plyvel.Error | OSError | RuntimeError):
            raise layout.storage_error(error, self._path) from error
