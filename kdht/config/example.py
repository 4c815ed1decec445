"""The example configuration, made from the descriptions in config.py.

`kdhtd --example` prints it; docs/kdhtd.toml is its output, which a test holds it to.
Every field stands there with its meaning, what it allows and its default; what has a
default is commented out, so the file is a valid configuration as it is.
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from msgspec import NODEFAULT
from msgspec import inspect as types

from kdht.config.kinds import allowed, plain
from kdht.config.schema import Config

WIDTH = 96
HEAD = """\
kdhtd.toml: the configuration of one node, /etc/kdht/kdhtd.toml unless --config names another.

All that most clusters need is five lines, the same on every node but for `listen`:

    [node]
    listen = ["10.0.0.1"]
    bootstrap = ["10.0.0.2", "10.0.0.3"]
    [[key]]
    file = "/etc/kdht/secret"       # made once: head -c 32 /dev/urandom | base64

`kdhtd --check` says whether a configuration can work here, and what it would do."""


def example() -> str:
    """The whole file's text."""
    root = types.type_info(Config)
    assert isinstance(root, types.StructType)
    blocks = [_comment(HEAD)]
    blocks += ["\n".join(_table(field)) for field in root.fields]
    return "\n\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _table(table: types.Field) -> Iterator[str]:
    kind = plain(table.type)
    if isinstance(kind, types.ListType):
        yield f"[[{table.name}]]"
        kind = plain(kind.item_type)
    else:
        yield f"[{table.name}]"
    assert isinstance(kind, types.StructType)
    yield from textwrap.wrap(
        " ".join((kind.cls.__doc__ or "").split()), WIDTH, initial_indent="# ", subsequent_indent="# "
    )
    for field in kind.fields:
        yield ""
        yield from _field(field)


def _field(field: types.Field) -> Iterator[str]:
    schema: dict[str, Any] = getattr(field.type, "extra_json_schema", None) or {}
    text = f"{schema['description']} Allowed: {allowed(field.type)}."
    yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
    examples = schema.get("examples", [])
    if field.default is not NODEFAULT and field.default is not None:
        yield f"#{field.name} = {_toml(field.default)}"
    elif field.default_factory is not NODEFAULT:
        yield f"#{field.name} = {_toml(examples[0] if examples else [])}"
    elif field.required or field.name == "file":
        yield f"{field.name} = {_toml(examples[0])}"
    else:
        yield f"#{field.name} = {_toml(examples[0])}"


def _toml(value: object) -> str:
    """Numbers, texts, truth values and lists look in TOML as they do in JSON."""
    return json.dumps(value)
