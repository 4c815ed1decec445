"""The store in LevelDB, through plyvel.

Records, their index by expiry and the counts change in one write batch, so that they
agree after any crash. Every block read is held against its checksum. One lock orders
the writers; readers take none. LevelDB's own lock keeps other processes out.

After a failed write the log may end in half a record. LevelDB would go on behind it,
confirm, and on the next start lose what it confirmed. So the first failed write is the
last one: reads go on, writes fail until the store is opened again.
"""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice

import plyvel

from kdht.errors import StorageError
from kdht.storage import files, layout
from kdht.storage.base import Result, Stats, Stored, Write, alive, check, settle

# Small, for an idle node is to stay below 20 MiB: LevelDB keeps up to two write buffers.
WRITE_BUFFER = 2 << 20
BLOCK_CACHE = 4 << 20
OPEN_FILES = 128
BLOOM_BITS = 10


class LevelStore:
    """The database in the directory `path`, which is made if it is not there.

    Raises StorageLocked, StorageDamaged, or StorageError for whatever else the disk says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._failed = False
        with self._errors():
            had_tables = files.prepare(self.path)
            self._db = plyvel.DB(
                self.path,
                create_if_missing=True,
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
                self._counts = self._read_counts()
        except StorageError:
            self._db.close()
            raise

    def get(self, key: bytes, now: float) -> Stored | None:
        return self.get_many((key,), now)[0]

    def get_many(self, keys: Sequence[bytes], now: float) -> list[Stored | None]:
        read = self._read
        with self._errors():
            return [alive(read(key), now) for key in keys]

    def apply(self, writes: Sequence[Write], now: float) -> list[Result]:
        check(writes)
        with self._lock, self._errors():
            change = _Change(self._db, self._counts, sync=True)
            results = []
            for write in writes:
                previous = change.now_at(write.key) if write.key in change else self._read(write.key)
                record, result = settle(previous, write, now)
                change.replace(write.key, previous, record)
                results.append(result)
            self._commit(change)
        return results

    def sweep(self, now: float, limit: int = 1000) -> int:
        """As Store.sweep. Not synced: what a crash brings back has expired all the same."""
        stop = layout.expiry_key(int(now) + 1, b"")
        with self._lock, self._errors():
            change = _Change(self._db, self._counts, sync=False)
            with closing(self._db.iterator(start=layout.EXPIRY, stop=stop, include_value=False)) as entries:
                for entry in islice(entries, limit):
                    expiry, key = layout.split_expiry_key(entry)
                    record = self._read(key)
                    if record is not None and record.expiry == expiry:
                        change.replace(key, record, None)
                    else:
                        change.drop_entry(entry)
            self._commit(change)
        return change.replaced

    def scan(
        self, now: float, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, Stored]]:
        first = layout.RECORD + start
        end = layout.RECORD_END if stop is None else layout.RECORD + stop
        with (
            self._errors(),
            closing(self._db.iterator(start=first, stop=end, verify_checksums=True)) as entries,
        ):
            for entry, raw in entries:
                record = layout.unpack_record(raw)
                if alive(record, now):
                    yield entry[len(layout.RECORD) :], record

    def stats(self) -> Stats:
        with self._errors():
            detail = self._db.get_property(b"leveldb.stats") or b""
            records, value_bytes = self._counts
            return Stats(records, value_bytes, files.disk_bytes(self.path), detail.decode().strip("\n"))

    def close(self) -> None:
        self._db.close()

    def _read(self, key: bytes) -> Stored | None:
        raw = self._db.get(layout.RECORD + key, verify_checksums=True)
        return None if raw is None else layout.unpack_record(raw)

    def _read_counts(self) -> tuple[int, int]:
        raw = self._db.get(layout.COUNTS_KEY, bytes(layout.COUNTS_VALUE.size))
        records, value_bytes = layout.COUNTS_VALUE.unpack(raw)
        return records, value_bytes

    def _commit(self, change: "_Change") -> None:
        if self._failed:
            raise StorageError(
                f"a write to {self.path} failed, so none is taken any more: free its disk, restart the node"
            )
        try:
            self._counts = change.commit()
        except Exception:
            self._failed = True
            raise

    def _check_format(self, had_tables: bool) -> None:
        """Write the format into a new database, and refuse what is not one of ours."""
        raw = self._db.get(layout.FORMAT_KEY)
        if raw is None and had_tables:
            raise layout.damaged(self.path, "its list of tables is incomplete")
        if raw is None:
            self._db.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT), sync=True)
            return
        (found,) = layout.FORMAT_VALUE.unpack(raw)
        if found != layout.FORMAT:
            raise StorageError(
                f"the database in {self.path} has format {found}, this kdht knows {layout.FORMAT}: "
                f"use the kdht that wrote it or choose another data directory"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What plyvel, the system or a garbled record raises, as a StorageError."""
        try:
            yield
        except (ValueError, struct.error) as error:
            raise layout.damaged(self.path, str(error)) from error
        except (plyvel.Error, OSError, RuntimeError) as error:
            raise layout.storage_error(error, self.path) from error


class _Change:
    """One write batch in the making, and what it makes of the counts."""

    def __init__(self, db: plyvel.DB, counts: tuple[int, int], *, sync: bool) -> None:
        self._batch = db.write_batch(sync=sync)
        self._pending: dict[bytes, Stored | None] = {}
        self._records, self._value_bytes = counts
        self._empty = True
        self.replaced = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._pending

    def now_at(self, key: bytes) -> Stored | None:
        """What an earlier write of this batch left at `key`."""
        return self._pending[key]

    def replace(self, key: bytes, previous: Stored | None, record: Stored | None) -> None:
        self._pending[key] = record
        if previous is not None:
            self._forget(key, previous)
        if record is not None:
            self._keep(key, record)

    def drop_entry(self, entry: bytes) -> None:
        """Take an index entry away that no record belongs to."""
        self._batch.delete(entry)
        self._empty = False

    def commit(self) -> tuple[int, int]:
        """Write the batch; the new counts."""
        counts = (max(self._records, 0), max(self._value_bytes, 0))
        if not self._empty:
            self._batch.put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(*counts))
            self._batch.write()
        return counts

    def _forget(self, key: bytes, record: Stored) -> None:
        self._batch.delete(layout.RECORD + key)
        if record.expiry:
            self._batch.delete(layout.expiry_key(record.expiry, key))
        self._records -= 1
        self._value_bytes -= len(record.value)
        self._empty = False
        self.replaced += 1

    def _keep(self, key: bytes, record: Stored) -> None:
        self._batch.put(layout.RECORD + key, layout.pack_record(record))
        if record.expiry:
            self._batch.put(layout.expiry_key(record.expiry, key), b"")
        self._records += 1
        self._value_bytes += len(record.value)
        self._empty = False
