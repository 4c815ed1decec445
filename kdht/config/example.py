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
SPOKEN = ("file", "writes")
"""Fields that stand in the file though they may be left out: a cluster that is closed to strangers needs them."""
HEAD = """\
kdhtd.toml: the configuration of one node, /etc/kdht/kdhtd.toml unless --config names another.

All that most clusters need is seven lines, the same on every node but for `listen`:

    [node]
    listen = ["10.0.0.1"]
    bootstrap = ["10.0.0.2", "10.0.0.3"]
    [[key]]
    file = "/etc/kdht/secret"          # made once: kdhtctl key new /etc/kdht/secret
    [[access.key]]
    file = "/etc/kdht/access-secret"   # another one: kdhtctl key new /etc/kdht/access-secret

Then writers need a token, which kdhtctl token new makes. docs/access.md has more.

`kdhtd --check` says whether a configuration can work here, and what it would do."""


def example() -> str:
    """The whole file's text."""
    root = types.type_info(Config)
    assert isinstance(root, types.StructType)
    blocks = [_comment(HEAD)]
    blocks += ["\n".join(lines) for field in root.fields for lines in _tables(field, field.name)]
    return "\n\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _tables(table: types.Field, path: str) -> Iterator[list[str]]:
    """The table's own lines, then those of the tables inside it."""
    kind = plain(table.type)
    is_list = isinstance(kind, types.ListType)
    struct = plain(kind.item_type) if isinstance(kind, types.ListType) else kind
    assert isinstance(struct, types.StructType)
    inner = [field for field in struct.fields if _is_table(field)]
    lines = [f"[[{path}]]" if is_list else f"[{path}]", *_comment(_text_of(struct)).splitlines()]
    for field in struct.fields:
        if field not in inner:
            lines += ["", *_field(field)]
    yield lines
    for field in inner:
        yield from _tables(field, f"{path}.{field.name}")


def _is_table(field: types.Field) -> bool:
    kind = plain(field.type)
    kind = plain(kind.item_type) if isinstance(kind, types.ListType) else kind
    return isinstance(kind, types.StructType)


def _text_of(struct: types.StructType) -> str:
    return textwrap.fill(" ".join((struct.cls.__doc__ or "").split()), WIDTH - 2)


def _field(field: types.Field) -> Iterator[str]:
    schema: dict[str, Any] = getattr(field.type, "extra_json_schema", None) or {}
    text = f"{schema['description']} Allowed: {allowed(field.type)}."
    yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
    examples = schema.get("examples", [])
    if field.default is not NODEFAULT and field.default is not None:
        yield f"#{field.encode_name} = {_toml(field.default)}"
    elif field.default_factory is not NODEFAULT:
        yield f"#{field.encode_name} = {_toml(examples[0] if examples else [])}"
    elif field.required or field.encode_name in SPOKEN:
        yield f"{field.encode_name} = {_toml(examples[0])}"
    else:
        yield f"#{field.encode_name} = {_toml(examples[0])}"


def _toml(value: object) -> str:
    """Numbers, texts, truth values and lists look in TOML as they do in JSON."""
    return json.dumps(value)
