"""Golden vectors: fixed bytes and what they mean, made by hand and not by kdht."""

import json
from pathlib import Path
from typing import Any

from kdht.wire import Address, Message, keys
from kdht.wire._shared import Flag, Op, Status

_DOCUMENT = json.loads((Path(__file__).parent / "messages.json").read_text())
_NUMBERS_IN_HEX = ("request_id", "cookie", "body_tag", "header_tag")
_ADDRESSES = ("client", "entry")

CLUSTER_KEY = keys.derive(_DOCUMENT["epoch"], _DOCUMENT["secret"].encode())
COOKIES: list[dict[str, Any]] = _DOCUMENT["cookies"]
VECTORS: list[dict[str, Any]] = _DOCUMENT["messages"]
PACKETS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "packets.json").read_text())
SIPHASH: dict[str, Any] = json.loads((Path(__file__).parent / "siphash.json").read_text())
TAGS: dict[str, Any] = json.loads((Path(__file__).parent / "tags.json").read_text())


def name_of(vector: dict[str, Any]) -> str:
    """A test's ID."""
    return str(vector["name"])


def message_of(vector: dict[str, Any]) -> Message:
    """The vector's fields as a message."""
    fields = dict(vector["fields"])
    for name in _NUMBERS_IN_HEX:
        if name in fields:
            fields[name] = int(fields[name], 16)
    for name in _ADDRESSES:
        if name in fields:
            fields[name] = Address.of(*fields[name])
    for name in ("key", "body"):
        fields[name] = bytes.fromhex(fields.get(name, ""))
    flags = Flag(0)
    for name in fields.pop("flags", []):
        flags |= Flag[name]
    return Message(
        **{**fields, "op": Op[fields["op"]], "status": Status[fields.get("status", "OK")], "flags": flags}
    )
