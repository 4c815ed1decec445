"""The keys and values in LevelDB, and what its errors mean for a user.

    b"r" key                  one record: the struct below, then the value
    b"e" expiry(u64) key      empty: the index by expiry, for records that have one
    b"x" key                  a record that was set aside, because its version is impossible (`versions`)
    b"p" key                  the promises of the key: for each u64 version, nonce, the version that stood, Unix seconds
    b"mformat"                u32, FORMAT
    b"mserial"                u64, the number of batches so far; the last entry of each batch
    b"mcounts"                u64 records, u64 bytes of values, u64 tombstones among the records

Numbers are big-endian. LevelDB keeps its keys sorted. So all keys with a common prefix (an XOR
neighbourhood) are one range, and so are all expired records. A record stores the length of its value:
a record that was cut, or that grew, is found to be damaged. Format 1 had no tombstones and did not count
them; format 2 had no promises.
"""

import struct
from typing import NamedTuple

import plyvel

from kdht.errors import StorageDamaged, StorageError, StorageLocked
from kdht.storage.record import StoredRecord
from kdht.wire._shared import ID_LEN

FORMAT = 3
FORMAT_WITHOUT_PROMISES = 2
FORMAT_WITHOUT_TOMBSTONES = 1

RECORD = b"r"
RECORD_END = b"s"
EXPIRY = b"e"
ASIDE = b"x"
PROMISE = b"p"
PROMISE_END = b"q"
FORMAT_KEY = b"mformat"
COUNTS_KEY = b"mcounts"
SERIAL_KEY = b"mserial"
BEFORE_ALL = b"\x00"
BEHIND_ALL = b"\xff"
"""All entries of ours lie between these two."""

FORMAT_VALUE = struct.Struct(">I")
SERIAL_VALUE = struct.Struct(">Q")
COUNTS_VALUE = struct.Struct(">QQQ")
COUNTS_WITHOUT_TOMBSTONES = struct.Struct(">QQ")
# u64 version, u64 expiry, u32 flags, u16 length of the value
HEAD_FORMAT = ">QQIH"
_HEAD = struct.Struct(HEAD_FORMAT)
_HEAD_LEN = _HEAD.size
_unpack_head = _HEAD.unpack_from
_EXPIRY_KEY = struct.Struct(f">{len(EXPIRY)}sQ{ID_LEN}s")


class Counts(NamedTuple):
    """The value at COUNTS_KEY."""

    records: int
    value_bytes: int
    tombstones: int


def pack_record(record: StoredRecord) -> bytes:
    version, expiry, flags, value = record
    return _HEAD.pack(version, expiry, flags, len(value)) + value


def unpack_record(raw: bytes) -> StoredRecord:
    """Raises ValueError or struct.error for bytes that `pack_record` cannot have made."""
    version, expiry, flags, length = _unpack_head(raw)
    value = raw[_HEAD_LEN:]
    if len(value) != length:
        raise ValueError(f"a record whose value has {len(value)} bytes, not {length}")
    # StoredRecord() would take as long as the rest of a read.
    return tuple.__new__(StoredRecord, (version, expiry, flags, value))


def expiry_key(expiry: int, key: bytes) -> bytes:
    return _EXPIRY_KEY.pack(EXPIRY, expiry, key)


def split_expiry_key(entry: bytes) -> tuple[int, bytes]:
    """Expiry and key of an index entry. Raises struct.error for other bytes."""
    _, expiry, key = _EXPIRY_KEY.unpack(entry)
    return expiry, key


_LOCKED = ("already held by process", "temporarily unavailable")
_DAMAGED = ("corruption", ".ldb: invalid argument", ".ldb: no such file", "not an sstable")


def storage_error(error: Exception, path: str) -> StorageError:
    """Turn an error of plyvel or the operating system into one that tells the user what to do."""
    if isinstance(error, StorageError):
        return error
    said = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    lower = text.lower()
    if any(words in lower for words in _LOCKED):
        return StorageLocked(f"another kdhtd uses {path}: stop it or choose another data directory")
    if isinstance(error, plyvel.CorruptionError) or any(words in lower for words in _DAMAGED):
        return damaged(path, text)
    return StorageError(
        f"cannot use the database in {path}: {text}; check its permissions and the space on its disk"
    )


def damaged(path: str, what: str) -> StorageDamaged:
    return StorageDamaged(
        f"the database in {path} is damaged ({what}): stop the node, then restore the directory from a backup, "
        f"or move it away to start empty, or keep what LevelDB can still read with: "
        f"python3 -c 'import plyvel; plyvel.repair_db({path!r})'"
    )
