"""Signed and immutable records for tests, and the forgeries of them that a member with the secret can make."""

from kdht.storage import StoredRecord, Write
from kdht.wire import pack_immutable_write, pack_signed_write
from kdht.wire.bencode import encode
from kdht.wire.certified import CERTIFIED, IMMUTABLE, SignedValue, immutable_key, sign

SEED = bytes(range(32))
OTHER_SEED = bytes(range(1, 33))
PLAIN = b"a value that never changes"


def signed(seq: int = 1, value: object = "value", salt: bytes = b"salt", seed: bytes = SEED) -> SignedValue:
    return sign(seed, salt, seq, encode(value))


KEY = signed().key
"""The key of all values signed by SEED with this salt."""


def put_body(value: SignedValue | bytes, ttl: int = 0, condition: int | None = None) -> bytes:
    """A PUT's body, of a signed or an immutable value."""
    if isinstance(value, bytes):
        return pack_immutable_write(value, ttl)
    return pack_signed_write(value, ttl, condition)


def stored(value: SignedValue | bytes, expiry: int = 0) -> StoredRecord:
    if isinstance(value, bytes):
        return StoredRecord(CERTIFIED, expiry, IMMUTABLE, value)
    return StoredRecord(value.version, expiry, value.flags, value.value)


def write(value: SignedValue | bytes, expiry: int = 0) -> Write:
    key = immutable_key(value) if isinstance(value, bytes) else value.key
    return Write(key, stored(value, expiry))


def forgeries() -> dict[str, StoredRecord]:
    """Records for KEY that its owner did not make, each above `signed()`."""
    good = signed(5)
    altered = bytearray(good.value)
    altered[-1] ^= 1
    return {
        "another value": stored(good)._replace(value=bytes(altered)),
        "another version": stored(good)._replace(version=CERTIFIED + 6),
        "the greatest version": stored(good)._replace(version=2**64 - 1),
        "another key's signature": stored(signed(5, seed=OTHER_SEED)),
        "another salt": stored(signed(5, salt=b"other")),
        "no signature": StoredRecord(CERTIFIED + 6, 0, 0, b"plain"),
        "no signature and a salt": StoredRecord(CERTIFIED + 6, 0, 0x400, b"plain"),
        "an immutable value": StoredRecord(CERTIFIED, 0, IMMUTABLE, PLAIN),
        "a deletion": StoredRecord(CERTIFIED + 6, 0, 2, b""),
        "a deletion with a signature": stored(good)._replace(version=CERTIFIED + 6, flags=good.flags | 2),
        "another length of the salt": stored(good)._replace(flags=good.flags - 0x100),
    }
