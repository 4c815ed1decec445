"""What a store keeps under one key."""

from typing import NamedTuple

from kdht.wire._shared import RecordFlag

# A plain number: the operators of an enum cost a read more than the rest of it.
TOMBSTONE = int(RecordFlag.TOMBSTONE)


class StoredRecord(NamedTuple):
    """A record: version (u64), expiry (unix seconds, u64, 0: none), flags (u32), value.

    With TOMBSTONE in `flags` it says that the key was deleted, and has no value.
    """

    version: int
    expiry: int
    flags: int
    value: bytes

    @property
    def deleted(self) -> bool:
        return self.flags & TOMBSTONE != 0


Replaced = tuple[bytes, StoredRecord | None, StoredRecord | None]
"""A key, its old record, its new record."""
