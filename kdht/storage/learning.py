"""The walk over a database that fills KnownKeys."""

from contextlib import closing
from itertools import islice

import plyvel

from kdht.storage import layout
from kdht.storage._known_keys import KnownKeys

AT_ONCE = 1000
"""Keys in a slice: some milliseconds, in which no write begins."""


def learn(db: plyvel.DB, known: KnownKeys, records: int) -> bool:
    """Do the next slice of the walk; whether it was the last. `records`: how many the database has. Nobody may write meanwhile."""
    if known.complete:
        return True
    try:
        keys = _keys_from(db, known.walked)
    except plyvel.Error:
        # A damaged block. LevelDB tells those who read its records, and the others must go on.
        known.give_up()
        return True
    last = len(keys) < AT_ONCE
    known.walk(keys, None if last else keys[-1] + b"\0")
    # LevelDB may leave out what it cannot read. A record must never be taken for absent.
    if last and known.count != records:
        known.give_up()
    return last


def _keys_from(db: plyvel.DB, first: bytes) -> list[bytes]:
    walk = db.iterator(
        start=layout.RECORD + first,
        stop=layout.RECORD_END,
        include_value=False,
        verify_checksums=True,
        # A long walk would push everything else out of the block cache.
        fill_cache=False,
    )
    with closing(walk) as entries:
        return [entry[len(layout.RECORD) :] for entry in islice(entries, AT_ONCE)]
