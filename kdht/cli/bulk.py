"""Files of many values: JSON lines or TSV, read and written line by line.

A JSON line is {"key": text, "value": text or "base64": bytes, "ttl": seconds}; other fields are
ignored. A TSV line is key, value and perhaps a TTL, with \\t \\n \\r \\\\ and \\xHH for special
characters. A key without a value is `"found": false`, and \\N in TSV. Raises ConfigError with the line.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from kdht.errors import ConfigError
from kdht.program.json import decoded
from kdht.wire.limits import MAX_TTL

Format = Literal["jsonl", "tsv"]
# The longest line of an export is a record in base64, far below this. A binary file given by mistake may
# have no line end at all.
MAX_LINE = 1 << 22
MAX_BULK_VALUE = 1 << 20
"""Bytes of a value in such a file: there may be one in memory for each request under way."""
_NULL = b"\\N"
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"\\": b"\\"}
_MUST_ESCAPE = re.compile(rb"[\x00-\x1f\\\x7f]")


class KeyValue(NamedTuple):
    """One line: a key with its value; None where it has none."""

    key: str | bytes
    value: bytes | None
    ttl: int | None


class _Line(msgspec.Struct):
    key: str
    value: str | None = None
    base64: str | None = None
    ttl: int | None = None
    found: bool = True


def format_of(path: Path | None, given: str | None) -> Format:
    """By the file's ending, unless given: .tsv is TSV, everything else JSON lines."""
    if given is not None:
        return "tsv" if given == "tsv" else "jsonl"
    return "tsv" if path is not None and path.suffix.lower() == ".tsv" else "jsonl"


def lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """The non-empty lines, with their numbers from 1. Raises ConfigError for a line that is too long."""
    number = 0
    # A file without line ends, as a database or an image, must not be read into memory whole.
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise ConfigError(f"{name}, line {number}: longer than {MAX_LINE} bytes: is this the right file?")
        if stripped := line.rstrip(b"\r\n"):
            yield number, stripped


def entries(file: BinaryIO, name: str, form: Format) -> Iterator[tuple[int, KeyValue]]:
    """Each line's entry, with its whole value. Raises ConfigError."""
    read = _from_tsv if form == "tsv" else _from_json
    for number, line in lines(file, name):
        try:
            entry = read(line)
            check(entry)
        except ValueError as error:
            raise ConfigError(f"{name}, line {number}: {error}") from None
        yield number, entry


def keys(file: BinaryIO, name: str, form: Format | None) -> Iterator[tuple[int, str | bytes]]:
    """The keys of such a file, or of one with a key a line (`form` None)."""
    if form is not None:
        for number, entry in entries(file, name, form):
            yield number, entry.key
        return
    for number, line in lines(file, name):
        yield number, _text(line)


def check(entry: KeyValue) -> None:
    """Raises ValueError if no cluster would take it."""
    if entry.value is not None and len(entry.value) > MAX_BULK_VALUE:
        raise ValueError(f"a value of {len(entry.value)} bytes: at most {MAX_BULK_VALUE} in such a file")
    if entry.ttl is not None and not 0 < entry.ttl <= MAX_TTL:
        raise ValueError(f"a TTL of {entry.ttl} s: it is 1 to {MAX_TTL}")


def written(entry: KeyValue, form: Format) -> bytes:
    """An entry as a line."""
    return (_to_tsv if form == "tsv" else _to_json)(entry) + b"\n"


def _from_json(line: bytes) -> KeyValue:
    found = decoded(line, _Line)
    ttl = found.ttl or None
    if not found.found:
        return KeyValue(found.key, None, ttl)
    if found.base64 is not None:
        try:
            return KeyValue(found.key, base64.b64decode(found.base64, validate=True), ttl)
        except binascii.Error as error:
            raise ValueError(f"`base64` is not valid base64: {error}") from None
    if found.value is None:
        raise ValueError("the line has neither `value` nor `base64`")
    return KeyValue(found.key, found.value.encode(), ttl)


def _to_json(entry: KeyValue) -> bytes:
    key = entry.key if isinstance(entry.key, str) else entry.key.decode(errors="backslashreplace")
    line: dict[str, object] = {"key": key}
    if entry.value is None:
        line["found"] = False
    else:
        try:
            line["value"] = entry.value.decode()
        except UnicodeDecodeError:
            line["base64"] = base64.b64encode(entry.value).decode()
    if entry.ttl:
        line["ttl"] = entry.ttl
    return msgspec.json.encode(line)


def _from_tsv(line: bytes) -> KeyValue:
    fields = line.split(b"\t")
    if not 2 <= len(fields) <= 3:
        raise ValueError(f"{len(fields)} fields: expected key, value and perhaps a TTL, with tabs between")
    ttl = None
    if len(fields) == 3:
        if not fields[2].isdigit():
            raise ValueError(f"the TTL is {fields[2][:20]!r}: expected seconds")
        ttl = int(fields[2]) or None
    return KeyValue(_text(_unescaped(fields[0])), None if fields[1] == _NULL else _unescaped(fields[1]), ttl)


def _to_tsv(entry: KeyValue) -> bytes:
    fields = [_escaped(os.fsencode(entry.key)), _NULL if entry.value is None else _escaped(entry.value)]
    if entry.ttl:
        fields.append(str(entry.ttl).encode())
    return b"\t".join(fields)


def _unescaped(field: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        what = match[1]
        if len(what) == 3:
            return bytes([int(what[1:], 16)])
        if what not in _ESCAPED:
            raise ValueError(f"\\{what.decode(errors='replace')} is none of \\t \\n \\r \\\\ \\xHH")
        return _ESCAPED[what]

    return _ESCAPE.sub(plain, field)


def _escaped(data: bytes) -> bytes:
    short = {plain: b"\\" + letter for letter, plain in _ESCAPED.items()}
    return _MUST_ESCAPE.sub(lambda match: short.get(match[0], b"\\x%02x" % match[0][0]), data)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def count(things: Iterable[object]) -> int:
    """How many there are."""
    return sum(1 for _ in things)
