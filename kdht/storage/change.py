"""What one batch does to the records and promises: for each key, what stood on disk and what is to stand.

Records, the index by expiry, the counts and the promises go into one write batch of LevelDB, so that they
agree after any crash. A record that stands there already is not written again.
"""

from collections.abc import Callable, Mapping

import plyvel

from kdht.storage import layout, promises
from kdht.storage.promises import Pledges
from kdht.storage.record import StoredRecord

Replaced = tuple[bytes, StoredRecord | None, StoredRecord | None]
"""A key, the record that stood there, the one that does now."""


class Change:
    """A batch in the making. `read` gives the record on disk, `promised` has the promises there."""

    def __init__(
        self, read: Callable[[bytes], StoredRecord | None], promised: Mapping[bytes, Pledges] | None = None
    ) -> None:
        self._read = read
        self._promised = promised or {}
        self.pledged: dict[bytes, Pledges] = {}
        """The promises of keys of which they change."""
        self._before: dict[bytes, StoredRecord | None] = {}
        self._after: dict[bytes, StoredRecord | None] = {}
        self._stray: list[bytes] = []

    def standing(self, key: bytes) -> StoredRecord | None:
        """What stands at `key` after all that is in the batch so far."""
        if key not in self._after:
            self._before[key] = self._after[key] = self._read(key)
        return self._after[key]

    def put(self, key: bytes, record: StoredRecord | None) -> None:
        """Let it stand there, None: nothing. Its `standing` was asked for before."""
        self._after[key] = record

    def pledges(self, key: bytes) -> Pledges:
        """The promises of a key after all that is in the batch so far."""
        if not self._promised and not self.pledged:  # nearly always
            return ()
        pledges = self.pledged.get(key)
        return self._promised.get(key, ()) if pledges is None else pledges

    def pledge(self, key: bytes, pledges: Pledges) -> None:
        """Let these be the key's promises."""
        self.pledged[key] = pledges

    def drop_entry(self, entry: bytes) -> None:
        """Take an index entry away that no record belongs to."""
        self._stray.append(entry)

    def replaced(self) -> list[Replaced]:
        """What the batch does to the records on disk."""
        return [
            (key, before, self._after[key])
            for key, before in self._before.items()
            if before != self._after[key]
        ]

    def write(
        self, db: plyvel.DB, replaced: list[Replaced], counts: layout.Counts, *, sync: bool
    ) -> layout.Counts:
        """Write the batch, unless nothing changes; the counts after it."""
        if not replaced and not self._stray and not self.pledged:
            return counts
        batch = db.write_batch(sync=sync)
        for entry in self._stray:
            batch.delete(entry)
        for key, before, after in replaced:
            _replace(batch, key, before, after)
        for key, pledges in self.pledged.items():
            if pledges:
                batch.put(layout.PROMISE + key, promises.pack(pledges))
            else:
                batch.delete(layout.PROMISE + key)
        counts = _counts_after(counts, replaced)
        batch.put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(*counts))
        batch.write()
        return counts


def _replace(
    batch: "plyvel.WriteBatch", key: bytes, before: StoredRecord | None, after: StoredRecord | None
) -> None:
    """The record and its index entry."""
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
