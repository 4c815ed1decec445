"""A check of a whole database: every record can be read, and the index and the counts agree with the records.

Reading verifies LevelDB's checksums too. Nothing is changed.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from kdht.storage import layout
from kdht.storage.promises import PLEDGE
from kdht.storage.versions import is_possible

MAX_PROBLEMS = 100
_META = (layout.FORMAT_KEY, layout.COUNTS_KEY, layout.SERIAL_KEY)


class Audit(NamedTuple):
    """The result. `records` does not count tombstones, as in Stats."""

    records: int
    tombstones: int
    value_bytes: int
    with_expiry: int
    set_aside: int
    """Records that have left their place, because their version is impossible (`versions`)."""
    problems: list[str]
    """Sentences for the operator, at most MAX_PROBLEMS. Empty: the database is sound."""


def audit(entries: Iterable[tuple[bytes, bytes]], kept: layout.Counts, latest: int) -> Audit:
    """Check all entries of a database, in any order, against each other and against its own counts.

    `latest`: as in `versions`.
    """
    problems: list[str] = []
    records = value_bytes = tombstones = set_aside = 0
    expiries: set[bytes] = set()
    indexed: set[bytes] = set()
    for entry, raw in entries:
        if entry.startswith(layout.EXPIRY):
            indexed.add(entry)
        elif entry.startswith(layout.RECORD):
            try:
                record = layout.unpack_record(raw)
            except (ValueError, struct.error) as error:
                problems.append(f"key {entry[1:].hex()}: {error}")
                continue
            records += 1
            value_bytes += len(record.value)
            tombstones += record.deleted
            if not is_possible(record, latest):
                problems.append(
                    f"key {entry[1:].hex()}: its version {record.version} is beyond the clock, so nobody is given it"
                )
            if record.expiry:
                expiries.add(layout.expiry_key(record.expiry, entry[len(layout.RECORD) :]))
        elif entry.startswith(layout.PROMISE):
            if not raw or len(raw) % PLEDGE.size:
                problems.append(f"promises of key {entry[1:].hex()} that cannot be read")
        elif entry.startswith(layout.ASIDE):
            set_aside += 1
        elif entry not in _META:
            problems.append(f"an entry that is none of kdht's: {entry[:24].hex()}")
    problems += [
        f"no index entry for {each[-20:].hex()}, which will not expire" for each in expiries - indexed
    ]
    problems += [f"an index entry without a record: {each[-20:].hex()}" for each in indexed - expiries]
    counted = layout.Counts(records, value_bytes, tombstones)
    if counted != kept:
        problems.append(f"counted {_said(counted)}, the database says {_said(kept)}")
    return Audit(
        records - tombstones, tombstones, value_bytes, len(expiries), set_aside, problems[:MAX_PROBLEMS]
    )


def _said(counts: layout.Counts) -> str:
    return (
        f"{counts.records} records, {counts.tombstones} of them tombstones, with {counts.value_bytes} bytes"
    )
