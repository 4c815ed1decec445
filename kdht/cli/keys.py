"""Keys as they are typed and shown."""

import os
from typing import Any

import click

from kdht.client._manifest import MAX_IN_MEMORY


class KeyType(click.ParamType[str | bytes]):
    """A key as it was typed: text, or bytes where they are no text."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | bytes:
        raw = os.fsencode(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw


class HexKey(click.ParamType[bytes]):
    """So many bytes, in hex digits."""

    name = "hex"

    def __init__(self, length: int) -> None:
        self._length = length

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if len(raw) != self._length:
            self.fail(f"{value!r} is no key of {2 * self._length} hex digits", param, ctx)
        return raw


def key_text(key: str | bytes) -> str:
    """A key as it is shown."""
    return key if isinstance(key, str) else key.decode(errors="backslashreplace")


def too_large(key: str | bytes, then: str) -> str:
    """The complaint of a command that holds values in memory. `then`: what follows for this key."""
    limit = MAX_IN_MEMORY >> 20
    return f"{key_text(key)!r} has more than {limit} MiB: {then}; kdhtctl get --output writes it to a file"
