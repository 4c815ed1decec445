"""Writes and keys for the tests of storage and service."""

from kdht.storage import StoredRecord, Write
from kdht.wire._shared import RecordFlag

NOW = 1_700_000_000.25
MICROS = int(NOW * 1_000_000)
TOMBSTONE = int(RecordFlag.TOMBSTONE)


def key_of(number: int) -> bytes:
    return number.to_bytes(20, "big")


def put(
    number: int,
    value: bytes = b"value",
    expiry: int = 0,
    flags: int = 0,
    version: int = 1,
    nonce: int | None = None,
) -> Write:
    return Write(key_of(number), StoredRecord(version, expiry, flags, value), nonce)


def delete(number: int, version: int = 1, expiry: int = 0, nonce: int | None = None) -> Write:
    return put(number, b"", expiry, TOMBSTONE, version, nonce)
