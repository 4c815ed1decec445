"""Writes and keys for the tests of storage and service."""

from kdht.storage import Write

NOW = 1_700_000_000.25
MICROS = int(NOW * 1_000_000)


def key_of(number: int) -> bytes:
    return number.to_bytes(20, "big")


def put(number: int, value: bytes = b"value", expiry: int = 0, flags: int = 0) -> Write:
    return Write(key_of(number), value, expiry, flags)


def delete(number: int) -> Write:
    return Write(key_of(number), None)
