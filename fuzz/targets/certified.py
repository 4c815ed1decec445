"""Certificates of self-certified records, bencoding, and sealed values: what untrusted bytes can do there.

Invariant: the check of bencoding in C and the decoder in Python take the same bytes; what is decoded encodes to the same bytes.
A record is proven, or BadPacket; it is proven only if its key and its signature were made right here.

    | choices | key or salt's length | version, 8 | flags, 4 | value ... |

A choice makes the value's signature right, makes the key right, or takes the value as bencoding alone.
"""

from collections.abc import Iterator

from fuzz.targets.events import Reader
from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire._bencode import is_bencoded
from kdht.wire._sodium import public_key, sign
from kdht.wire.bencode import decode, encode
from kdht.wire.certified import (
    CERTIFIED,
    HEAD_LEN,
    IMMUTABLE,
    SALT_LENGTHS,
    SIGNED,
    check_certified,
    immutable_key,
    is_certified,
    signed_bytes,
    signed_key,
)

SEED = bytes(32)
PUBLIC_KEY = public_key(SEED)
SIGN, KEY, BENCODE_ONLY, IS_IMMUTABLE = 1, 2, 4, 8
ANY_KEY = bytes(range(20))


def check_bencoding(data: bytes) -> bool:
    """Both readers; whether it is a value."""
    try:
        value = decode(data)
    except BadPacket:
        assert not is_bencoded(data), "only the check in C takes it"
        return False
    assert is_bencoded(data), "only the decoder takes it"
    assert encode(value) == data
    return True


def signed_value(salt: bytes, seq: int, v: bytes) -> bytes:
    """The value of a signed record with a right signature."""
    return PUBLIC_KEY + sign(SEED, signed_bytes(salt, seq, v)) + salt + v


def one(data: bytes) -> None:
    reader = Reader(data)
    choices, length = reader.byte(), reader.byte()
    version, flags = int.from_bytes(reader.bytes(8), "big"), int.from_bytes(reader.bytes(4), "big")
    rest = reader.bytes(shared.MAX_VALUE)
    if choices & BENCODE_ONLY:
        check_bencoding(rest)
        return
    key, value, right = ANY_KEY, rest, False
    if choices & IS_IMMUTABLE:
        flags = IMMUTABLE
        if choices & KEY:
            key, version, right = immutable_key(value), CERTIFIED, True
    elif choices & SIGN:
        salt, v = rest[:length], rest[length:]
        version |= CERTIFIED
        flags = SIGNED | (len(salt) << shared.SALT_SHIFT & SALT_LENGTHS)
        value = signed_value(salt, version - CERTIFIED, v)
        if choices & KEY:
            key = signed_key(PUBLIC_KEY, salt)
            fits = len(salt) <= shared.MAX_SALT and len(rest) <= shared.MAX_SIGNED
            right = fits and check_bencoding(v)
    try:
        check_certified(key, version, flags, value)
    except BadPacket:
        assert not right, "a right certificate is refused"
    else:
        assert right, "a wrong certificate is taken"
        assert is_certified(version, flags)
        assert len(value) <= max(HEAD_LEN + shared.MAX_SIGNED, shared.MAX_VALUE)


def seeds() -> Iterator[tuple[str, bytes]]:
    head = bytes(7) + b"\x05" + bytes(4)
    values = [
        b"5:value",
        b"i-42e",
        b"l4:spami1ee",
        b"d1:ai1e1:bl0:d1:cleeee",
        b"d2:aa1:b1:a1:ce",
        b"i-0e",
        b"l" * 33 + b"e" * 33,
    ]
    for number, value in enumerate(values):
        yield f"bencode-{number}", bytes([BENCODE_ONLY, 0]) + head + value
        yield f"signed-{number}", bytes([SIGN | KEY, 4]) + head + b"salt" + value
    yield "immutable", bytes([IS_IMMUTABLE | KEY, 0]) + head + b"value"
    yield "another-key", bytes([SIGN, 4]) + head + b"salt5:value"
    yield "plain", bytes([0, 0]) + b"\x80" + head[1:] + b"value"
