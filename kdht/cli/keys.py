"""Keys as they are typed and shown."""

import os
from typing import Any

import click


class KeyType(click.ParamType[str | bytes]):
    """A key as it was typed: text, or bytes where they are no text."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | bytes:
        raw = os.fsencode(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw


def key_text(key: str | bytes) -> str:
    """A key as it is shown."""
    return key if isinstance(key, str) else key.decode(errors="backslashreplace")
