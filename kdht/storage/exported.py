"""The file format of exported records: JSON lines, with a head line and a line that counts the records.

    {"kdht": "records", "format": 1}
    {"key": hex, "version": n, "expiry": unix seconds or 0, "flags": n, "value": base64}
    {"records": n}

A file without its last line was cut short. Written here and by `kdhtctl storage export`, read by `storage import`.
"""

import base64
from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from kdht.storage import StoredRecord

FORMAT = 1


class Head(msgspec.Struct):
    kdht: str
    format: int


def plain(key: bytes, record: StoredRecord) -> dict[str, object]:
    """A record as JSON holds it."""
    return {
        "key": key.hex(),
        "version": record.version,
        "expiry": record.expiry,
        "flags": record.flags,
        "value": base64.b64encode(record.value).decode(),
    }


def write(target: BinaryIO, records: Iterable[dict[str, object]]) -> int:
    """Write all lines. Returns how many records."""
    target.write(msgspec.json.encode(Head("records", FORMAT)) + b"\n")
    count = 0
    for record in records:
        target.write(msgspec.json.encode(record) + b"\n")
        count += 1
    target.write(msgspec.json.encode({"records": count}) + b"\n")
    return count
