"""The format of a database: written into a new one, upgraded in an old one. An unknown one is refused."""

import plyvel

from kdht.errors import StorageError
from kdht.storage import layout


def check(db: plyvel.DB, path: str, had_tables: bool) -> None:
    """Raises StorageError for an unknown format, StorageDamaged for none where there should be one."""
    raw = db.get(layout.FORMAT_KEY, verify_checksums=True)
    # A database of ours has its format in its first table. If LevelDB's list of tables was cut between
    # two entries, LevelDB loses the later tables without an error; a missing format shows it.
    if raw is None and had_tables:
        raise layout.damaged(path, "its list of tables is incomplete")
    found = layout.FORMAT if raw is None else layout.FORMAT_VALUE.unpack(raw)[0]
    if found == layout.FORMAT_WITHOUT_TOMBSTONES:
        _add_tombstones(db)
    elif found == layout.FORMAT_WITHOUT_PROMISES:
        db.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT), sync=True)
    elif found != layout.FORMAT:
        raise StorageError(
            f"the database in {path} has format {found}, this kdht knows {layout.FORMAT}: "
            f"use the kdht that wrote it or choose another data directory"
        )
    elif raw is None:
        db.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT), sync=True)


def _add_tombstones(db: plyvel.DB) -> None:
    """Upgrade from format 1, in one synced batch. The records stay as they are."""
    old = layout.COUNTS_WITHOUT_TOMBSTONES
    raw = db.get(layout.COUNTS_KEY, bytes(old.size), verify_checksums=True)
    records, value_bytes = old.unpack(raw)
    # Without `transaction` plyvel writes half a batch when the block raises.
    with db.write_batch(transaction=True, sync=True) as batch:
        batch.put(layout.COUNTS_KEY, layout.COUNTS_VALUE.pack(records, value_bytes, 0))
        batch.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(layout.FORMAT))
