"""Bencoding, of BitTorrent's BEP 3: what the value of a signed record is written in. Layer 0.

    integer     i<decimal>e
    string      <length>:<bytes>
    list        l<values>e
    dictionary  d<string><value> ... e, sorted by the bytes of the keys

Only the canonical form is taken: no leading zeros, no "-0", no unsorted or repeated key. `_bencode` checks the same language
without making values.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias, Union

from kdht.errors import BadPacket

Bencodable: TypeAlias = Union[
    bytes,
    str,
    int,
    "list[Bencodable]",
    "tuple[Bencodable, ...]",
    "Mapping[bytes, Bencodable]",
    "Mapping[str, Bencodable]",
]
"""Text is encoded as UTF-8, and comes back as bytes."""
Bencoded: TypeAlias = Union[bytes, int, "list[Bencoded]", "dict[bytes, Bencoded]"]

MAX_DEPTH = 32
"""Lists and dictionaries in one another."""
_NUMBER = re.compile(rb"i(0|-?[1-9][0-9]*)e")
_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,6}):")
_MAX_NUMBER_LENGTH = 1024
"""Bytes of a number. More fit in no record."""


def encode(value: Bencodable, depth: int = 0) -> bytes:
    """Raises TypeError for a value that has no bencoding, ValueError for one that is nested too deep."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return b"%d:%b" % (len(data), data)
    if isinstance(value, int) and not isinstance(value, bool):
        return b"i%de" % value
    if depth >= MAX_DEPTH:
        raise ValueError(f"a bencoded value has at most {MAX_DEPTH} lists and dictionaries in one another")
    if isinstance(value, (list, tuple)):
        return b"l" + b"".join(encode(each, depth + 1) for each in value) + b"e"
    if isinstance(value, Mapping):
        return b"d" + _items(value, depth + 1) + b"e"
    raise TypeError(
        f"bencoding has bytes, text, whole numbers, lists and dictionaries, not {type(value).__name__}"
    )


def _items(value: Mapping[bytes, Bencodable] | Mapping[str, Bencodable], depth: int) -> bytes:
    found: dict[bytes, Bencodable] = {}
    for key, each in value.items():
        name = key.encode() if isinstance(key, str) else key
        if not isinstance(name, bytes):
            raise TypeError(f"the keys of a bencoded dictionary are bytes or text, not {type(key).__name__}")
        if name in found:
            raise ValueError(f"the key {name!r} is there twice, as bytes and as text")
        found[name] = each
    return b"".join(encode(name) + encode(found[name], depth) for name in sorted(found))


def decode(data: bytes) -> Bencoded:
    """The one value in untrusted bytes. Raises BadPacket."""
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise BadPacket("BAD_LENGTH", f"{len(data) - end} bytes behind a bencoded value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Bencoded, int]:
    """The value that begins at `at`, and where it ends."""
    match data[at : at + 1]:
        case b"i":
            return _number(data, at)
        case b"l" | b"d" if depth >= MAX_DEPTH:
            raise BadPacket("BAD_LENGTH", "bencoding that is nested too deep")
        case b"l":
            return _list(data, at + 1, depth + 1)
        case b"d":
            return _dictionary(data, at + 1, depth + 1)
        case _:
            return _string(data, at)


def _number(data: bytes, at: int) -> tuple[int, int]:
    found = _NUMBER.match(data, at, at + _MAX_NUMBER_LENGTH)
    if found is None:
        raise BadPacket("BAD_LENGTH", f"no bencoded number at byte {at}")
    return int(found[1]), found.end()


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    found = _LENGTH.match(data, at)
    if found is None:
        raise BadPacket("BAD_LENGTH", f"no bencoded value at byte {at}")
    end = found.end() + int(found[1])
    if end > len(data):
        raise BadPacket("TRUNCATED", f"a bencoded string that ends at byte {end} of {len(data)}")
    return data[found.end() : end], end


def _list(data: bytes, at: int, depth: int) -> tuple[list[Bencoded], int]:
    values: list[Bencoded] = []
    while data[at : at + 1] != b"e":
        value, at = _value(data, at, depth)
        values.append(value)
    return values, at + 1


def _dictionary(data: bytes, at: int, depth: int) -> tuple[dict[bytes, Bencoded], int]:
    values: dict[bytes, Bencoded] = {}
    last: bytes | None = None
    while data[at : at + 1] != b"e":
        key, at = _string(data, at)
        if last is not None and key <= last:
            raise BadPacket("BAD_LENGTH", f"the key {key!r} of a bencoded dictionary is not in order")
        values[key], at = _value(data, at, depth)
        last = key
    return values, at + 1
