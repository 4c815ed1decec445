"""One batch of changes: for each key the record on disk and the record to come.

Records, the index by expiry, the counts and the promises go into one write batch of LevelDB. So they agree
after any crash, and no start has to walk the database to repair them.
"""

from collections.abc import Callable, Mapping

import plyvel

from kdht.storage import layout, promises
from kdht.storage.promises import Pledges
from kdht.storage.record import StoredRecord
from kdht.storage.versions import is_possible

Replaced = tuple[bytes, StoredRecord | None, StoredRecord | None]
"""A key, its old record, its new record."""


class StoreChange:
    """A batch that grows. `read` gives the record on disk, `promised` the promises on disk.

    A record whose version is impossible (`latest`: as in `versions`) counts as none. It is set aside when another one takes
    its place.
    """

    def __init__(
        self,
        read: Callable[[bytes], StoredRecord | None],
        latest: int,
        promised: Mapping[bytes, Pledges] | None = None,
    ) -> None:
        self._read = read
        self._latest = latest
        self._promised = promised or {}
        self.pledged: dict[bytes, Pledges] = {}
        """The new promises of each key whose promises change."""
        self._before: dict[bytes, StoredRecord | None] = {}
        self._after: dict[bytes, StoredRecord | None] = {}
        self._stray: list[bytes] = []

    def standing(self, key: bytes) -> StoredRecord | None:
        """The record of `key` after all changes of the batch so far."""
        if key not in self._after:
            self._before[key] = self._after[key] = self._read(key)
        record = self._after[key]
        return record if record is None or is_possible(record, self._latest) else None

    def put(self, key: bytes, record: StoredRecord | None) -> None:
        """Set the record of a key, or None to remove it. Call `standing` for the key first."""
        self._after[key] = record

    def pledges(self, key: bytes) -> Pledges:
        """The promises of a key after all changes of the batch so far."""
        if not self._promised and not self.pledged:  # nearly always: promises are rare and short
            return ()
        pledges = self.pledged.get(key)
        return self._promised.get(key, ()) if pledges is None else pledges

    def pledge(self, key: bytes, pledges: Pledges) -> None:
        """Set the promises of a key."""
        self.pledged[key] = pledges

    def drop_entry(self, entry: bytes) -> None:
        """Remove an index entry that has no record."""
        self._stray.append(entry)

    def replaced(self) -> list[Replaced]:
        """The records that the batch changes. A duplicate changes nothing and costs no sync."""
        return [
            (key, before, self._after[key])
            for key, before in self._before.items()
            if before != self._after[key]
        ]

    def is_empty(self, replaced: list[Replaced]) -> bool:
        """Whether there is nothing to write."""
        return not (replaced or self._stray or self.pledged)

    def set_aside(self, replaced: list[Replaced]) -> int:
        """How many of these are records with impossible versions."""
        latest = self._latest
        return sum(before is not None and not is_possible(before, latest) for _, before, _ in replaced)

    def write(
        self, db: plyvel.DB, replaced: list[Replaced], counts: layout.Counts, serial: int, *, sync: bool
    ) -> layout.Counts:
        """Write the batch, number `serial` of the database. Returns the counts after it."""
        batch = db.write_batch(sync=sync)
        for entry in self._stray:
            batch.delete(entry)
        for key, before, after in replaced:
            _replace(batch, key, before, after)
            if before is not None and not is_possible(before, self._latest):
                # Kept, because the clock may be what was wrong.
                batch.put(layout.ASIDE + key, layout.pack_record(before))
        for key, pledges in self.pledged.items():
            if pledges:
                batch.put(layout.PROMISE + key, promises.pack(pledges))
            else:
                batch.delete(layout.PROMISE + key)
        counts = _counts_after(counts, replaced)
        batch.put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(*counts))
        # Last: `witness` finds it there, in LevelDB's log.
        batch.put(layout.SERIAL_KEY, layout.SERIAL_VALUE.pack(serial))
        batch.write()
        return counts


def _replace(
    batch: "plyvel.WriteBatch", key: bytes, before: StoredRecord | None, after: StoredRecord | None
) -> None:
    """Write or delete the record, and its index entry if the expiry changed."""
    was_due = before.expiry if before is not None else 0
    is_due = after.expiry if after is not None else 0
    if after is None:
        batch.delete(layout.RECORD + key)
    else:
        batch.put(layout.RECORD + key, layout.pack_record(after))
    if was_due == is_due:
        return
    if was_due:
        batch.delete(layout.expiry_key(was_due, key))
    if is_due:
        batch.put(layout.expiry_key(is_due, key), b"")


def _counts_after(counts: layout.Counts, replaced: list[Replaced]) -> layout.Counts:
    records, value_bytes, tombstones = counts
    for _, before, after in replaced:
        if before is not None:
            records -= 1
            value_bytes -= len(before.value)
            tombstones -= before.deleted
        if after is not None:
            records += 1
            value_bytes += len(after.value)
            tombstones += after.deleted
    return layout.Counts(max(records, 0), max(value_bytes, 0), max(tombstones, 0))
