"""The store in LevelDB, through plyvel.

Every read verifies the block's checksum. One lock orders the writers; readers take no lock. LevelDB's own
lock keeps other processes out.

The first failed write is the last: reads go on, writes fail until the store is opened again. A failed write
(a full disk) may leave half a record at the end of LevelDB's log. LevelDB would append behind it and confirm.
The next start cannot read past the half record, so it would lose every write that was confirmed after it.
"""

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice

import plyvel

from kdht.errors import StorageError
from kdht.storage import files, layout, witness
from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.storage.audit import Audit, audit
from kdht.storage.base import (
    OnChange,
    Outcome,
    Stats,
    Wish,
    alive,
    check,
    settle,
    tell,
)
from kdht.storage.change import StoreChange
from kdht.storage.promises import MAX_KEYS, Granted, Pledges, Promise, above, grant, live, unpack
from kdht.storage.record import StoredRecord
from kdht.storage.versions import ANY_VERSION, latest_readable, latest_version
from kdht.storage.witness import Witness
from kdht.times import UnixTime
from kdht.wire._shared import REPLAY_WINDOW

# Small, because an idle node has to stay below 20 MiB. LevelDB keeps up to two write buffers.
WRITE_BUFFER = 2 << 20
BLOCK_CACHE = 4 << 20
OPEN_FILES = 128
BLOOM_BITS = 10
DROPPED_AT_ONCE = 1000


class LevelStore:
    """The database in the directory `path`. Makes the directory if it is missing. `window`: as in `versions`.

    Raises StorageLocked (another process has it open), StorageDamaged, and StorageError for other errors.
    """

    def __init__(self, path: str | os.PathLike[str], window: int = REPLAY_WINDOW) -> None:
        self.path = os.fspath(path)
        self._window = window
        self._lock = threading.Lock()
        self._failed = False
        with self._errors():
            had_tables = files.prepare(self.path)
            witness.check_logs(self.path)
            self._db = plyvel.DB(
                self.path,
                create_if_missing=True,
                # Else LevelDB skips damaged parts of its log without an error.
                paranoid_checks=True,
                write_buffer_size=WRITE_BUFFER,
                lru_cache_size=BLOCK_CACHE,
                max_open_files=OPEN_FILES,
                bloom_filter_bits=BLOOM_BITS,
            )
        try:
            with self._errors():
                files.check_tables(self._db, self.path)
                self._check_format(had_tables)
                self._serial = self._synced = self._read_serial()
                witness.check_serial(self.path, self._serial)
                self._witness = Witness(self.path)
                self._counts = self._read_counts()
                self._promised = self._read_promises()
        except StorageError:
            self._db.close()
            raise

    def get(self, key: bytes, now: UnixTime) -> StoredRecord | None:
        return self.get_many((key,), now)[0]

    def get_many(self, keys: Sequence[bytes], now: UnixTime) -> list[StoredRecord | None]:
        read, prefix, unpack = self._db.get, layout.RECORD, layout.unpack_record
        latest = latest_readable(now)
        with self._errors():
            return [
                None
                if (raw := read(prefix + key, verify_checksums=True)) is None
                else alive(unpack(raw), now, latest)
                for key in keys
            ]

    def reader(self, cache: RecordCache | None, is_caught_up: Callable[[bytes], bool]) -> StoreReader:
        """A reader for GETs, for one thread. `cache`: where it puts the records that it reads. `is_caught_up`:
        whether this store alone may answer for a key."""
        return StoreReader(partial(self._db.get, verify_checksums=True), cache, is_caught_up)

    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        check(wishes)
        outcomes: list[Outcome] = []
        changes = []
        with self._lock, self._errors():
            latest = latest_version(now, self._window)
            change = StoreChange(self._read, latest, self._promised)
            for wish in wishes:
                if isinstance(wish, Promise):
                    outcomes.append(self._promise(change, wish, now, latest))
                    continue
                key = wish.key
                previous, pledges = change.standing(key), change.pledges(key)
                record, result = settle(previous, wish, now, latest, live(pledges, now) if pledges else ())
                outcomes.append(result)
                if record is not None and record != previous:
                    change.put(key, record)
                    changes.append((key, record))
                if pledges and record is not None:
                    change.pledge(key, above(pledges, record.version))
            self._commit(change, sync=True)
            self._witness.note(self._synced, now)
        tell(on_change, changes)
        return outcomes

    def _promise(self, change: StoreChange, asked: Promise, now: UnixTime, latest: int) -> Granted:
        pledges = change.pledges(asked.key)
        # All promises are in memory, so their number is bounded.
        room = len(self._promised) < MAX_KEYS
        after, granted = grant(change.standing(asked.key), pledges, asked, now, latest, room=room)
        if after != pledges:
            change.pledge(asked.key, after)
        return granted

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        dropped = 0
        for first in range(0, len(keys), DROPPED_AT_ONCE):
            with self._lock, self._errors():
                change = StoreChange(self._read, ANY_VERSION)
                for key, version in keys[first : first + DROPPED_AT_ONCE]:
                    record = change.standing(key)
                    if record is not None and record.version == version:
                        change.put(key, None)
                dropped += self._commit(change, sync=False)
        return dropped

    def sweep(self, now: UnixTime, limit: int = 1000) -> int:
        """As Store.sweep. Not synced: records that a crash brings back have expired and are swept again."""
        stop = layout.expiry_key(int(now) + 1, b"")
        with self._lock, self._errors():
            change = StoreChange(self._read, ANY_VERSION)
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
            for key, pledges in self._promised.items():
                kept = live(pledges, now)
                if kept != pledges:
                    change.pledge(key, kept)
            return self._commit(change, sync=False)

    def scan(
        self, now: UnixTime, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, StoredRecord]]:
        latest = latest_readable(now)
        with self._errors():
            for key, raw in self._raw(start, stop):
                record = layout.unpack_record(raw)
                if alive(record, now, latest):
                    yield key, record

    def stats(self) -> Stats:
        with self._errors():
            detail = self._db.get_property(b"leveldb.stats") or b""
            records, value_bytes, tombstones = self._counts
            size = files.disk_bytes(self.path)
            return Stats(records - tombstones, tombstones, value_bytes, size, detail.decode().strip("\n"))

    def compact(self) -> None:
        """Rewrite the tables without replaced and deleted records. Reads and writes go on meanwhile."""
        with self._errors():
            files.flush(self._db)
            with self._lock, self._writing():
                files.mark_ends(self._db)
            files.rewrite(self._db)
            with self._lock:
                self._witness.save(self._synced)

    def audit(self, now: UnixTime) -> Audit:
        """Check the whole database. Nobody may write meanwhile."""
        with self._errors(), closing(self._db.iterator(verify_checksums=True)) as entries:
            return audit(entries, self._counts, latest_version(now, self._window))

    def close(self) -> None:
        with self._lock:
            self._witness.save(self._synced)
            self._db.close()

    def _read(self, key: bytes) -> StoredRecord | None:
        raw = self._db.get(layout.RECORD + key, verify_checksums=True)
        return None if raw is None else layout.unpack_record(raw)

    def _raw(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Keys and packed records in a range, in key order. A snapshot, taken at the first step."""
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
        with self._writing():
            replaced = change.replaced()
            if change.is_empty(replaced):
                return 0  # a duplicate
            # In the same batch as the records: counts cannot drift, and no start walks the database.
            self._counts = change.write(self._db, replaced, self._counts, self._serial + 1, sync=sync)
            self._serial += 1
            if sync:  # with it all earlier ones
                self._synced = self._serial
        for key, pledges in change.pledged.items():
            if pledges:
                self._promised[key] = pledges
            else:
                self._promised.pop(key, None)
        return len(replaced)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around every write to LevelDB's log. After a failed write it refuses all later ones (see above)."""
        if self._failed:
            raise StorageError(
                f"a write to {self.path} failed, so no more writes are accepted: "
                f"free space on its disk, then restart the node"
            )
        try:
            yield
        except Exception:
            self._failed = True
            raise

    def _check_format(self, had_tables: bool) -> None:
        """Write the format into a new database, upgrade an old one, refuse an unknown one."""
        raw = self._db.get(layout.FORMAT_KEY, verify_checksums=True)
        # A database of ours has its format in its first table. If LevelDB's list of tables was cut between
        # two entries, LevelDB loses the later tables without an error; a missing format shows it.
        if raw is None and had_tables:
            raise layout.damaged(self.path, "its list of tables is incomplete")
        found = layout.FORMAT if raw is None else layout.FORMAT_VALUE.unpack(raw)[0]
        if found == layout.FORMAT_WITHOUT_TOMBSTONES:
            self._add_tombstones()
        elif found == layout.FORMAT_WITHOUT_PROMISES:
            self._db.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT), sync=True)
        elif found != layout.FORMAT:
            raise StorageError(
                f"the database in {self.path} has format {found}, this kdht knows {layout.FORMAT}: "
                f"use the kdht that wrote it or choose another data directory"
            )
        elif raw is None:
            self._db.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT), sync=True)

    def _add_tombstones(self) -> None:
        """Upgrade from format 1, in one synced batch. The records stay as they are."""
        old = layout.COUNTS_WITHOUT_TOMBSTONES
        raw = self._db.get(layout.COUNTS_KEY, bytes(old.size), verify_checksums=True)
        records, value_bytes = old.unpack(raw)
        # Without `transaction` plyvel writes half a batch when the block raises.
        with self._db.write_batch(transaction=True, sync=True) as batch:
            batch.put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(records, value_bytes, 0))
            batch.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what plyvel, the operating system or a damaged record raises into a StorageError."""
        try:
            yield
        except (ValueError, struct.error) as error:
            raise layout.damaged(self.path, str(error)) from error
        except (plyvel.Error, OSError, RuntimeError) as error:
            raise layout.storage_error(error, self.path) from error
