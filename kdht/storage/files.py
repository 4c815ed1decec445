"""The files of the database: checks that LevelDB does not do, and compaction.

LevelDB hides two kinds of damage. If the CURRENT file is missing, it starts empty and removes the tables.
If a table is too short, it reads the table as empty. Both are found here, before any data is lost.
"""

import os
import re

import plyvel

from kdht.storage import layout

BLOCK_CACHE = 4 << 20
# plyvel's default of 1,000 takes too many descriptors where several nodes run on one host.
OPEN_FILES = 128
# About 1 % of reads of absent keys touch a table for nothing. Absent keys are common: each new key is one.
BLOOM_BITS = 10

_TABLES = (".ldb", ".sst")
_CONTENT = (*_TABLES, ".log")
_TABLE_LINE = re.compile(r"^ (\d+):(\d+)\[", re.MULTILINE)


def prepare(path: str) -> bool:
    """Make the directory if it is missing. Returns whether it has tables already.

    Raises OSError, and StorageDamaged if there are tables or logs but no CURRENT file.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    names = os.listdir(path)
    # LevelDB would take the directory for a new database and delete the tables.
    if "CURRENT" not in names and any(name.endswith(_CONTENT) for name in names):
        raise layout.damaged(path, "its CURRENT file is missing")
    return any(name.endswith(_TABLES) for name in names)


def open_db(path: str, write_buffer: int) -> plyvel.DB:
    """Open the database, or make one. `write_buffer` is in bytes. Raises plyvel.Error, OSError."""
    return plyvel.DB(
        path,
        create_if_missing=True,
        # Else LevelDB skips damaged parts of its log without an error.
        paranoid_checks=True,
        write_buffer_size=write_buffer,
        lru_cache_size=BLOCK_CACHE,
        max_open_files=OPEN_FILES,
        bloom_filter_bits=BLOOM_BITS,
    )


def check_tables(db: plyvel.DB, path: str) -> None:
    """Raises StorageDamaged if the size of a table in use differs from the size in LevelDB's list."""
    short = _wrong_sizes(db, path)
    # A compaction may have replaced a table between the list and the check: check once more.
    if short and (short := short & _wrong_sizes(db, path)):
        raise layout.damaged(path, f"{', '.join(sorted(short))}: not as long as written")


def _wrong_sizes(db: plyvel.DB, path: str) -> set[str]:
    listing = (db.get_property(b"leveldb.sstables") or b"").decode(errors="replace")
    wrong = set()
    for number, size in _TABLE_LINE.findall(listing):
        names = [f"{int(number):06d}{ending}" for ending in _TABLES]
        # Both endings: LevelDB renamed them once, and reads old ones still.
        sizes = {_size(os.path.join(path, name)) for name in names} - {0}
        if sizes != {int(size)}:
            wrong.add(names[0])
    return wrong


def flush(db: plyvel.DB) -> None:
    """Write LevelDB's memory table to disk.

    With a range of everything this would compact all tables. plyvel's range of two empty strings is empty.
    """
    db.compact_range(start=b"", stop=b"")


def mark_ends(db: plyvel.DB) -> None:
    """Make `rewrite` touch every table.

    LevelDB skips a table of the lowest level if nothing above overlaps it, with all deleted records in it. Two deletions, at
    both ends of the keys, overlap everything. 300 records of 1,000 bytes, of which 20 are left: 339,000 bytes before,
    23,000 after, 324,000 without these deletions.
    """
    with db.write_batch(transaction=True) as batch:
        batch.delete(layout.BEFORE_ALL)
        batch.delete(layout.BEHIND_ALL)


def rewrite(db: plyvel.DB) -> None:
    """Merge all tables into one level, without replaced and deleted records. plyvel compacts nothing without bounds."""
    db.compact_range(start=layout.BEFORE_ALL, stop=layout.BEHIND_ALL)


def disk_bytes(path: str) -> int:
    """The size of all files in bytes. Files that LevelDB removes meanwhile count 0."""
    return sum(_size(os.path.join(path, name)) for name in os.listdir(path))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        # LevelDB deletes files at any time.
        return 0
