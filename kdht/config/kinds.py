"""What a struct's fields allow, in words: for error messages and for the example file."""

from collections.abc import Callable
from typing import Any

from msgspec import inspect as types


def plain(kind: types.Type) -> types.Type:
    """The type itself, without its description."""
    return kind.type if isinstance(kind, types.Metadata) else kind


def kind_at(struct: type, steps: list[str | int]) -> types.Type:
    """The type of the field that `steps` (names and list indices) lead to."""
    kind: types.Type = types.type_info(struct)
    for step in steps:
        kind = plain(kind)
        if isinstance(kind, types.StructType):
            kind = next(f.type for f in kind.fields if f.encode_name == step)
        elif isinstance(kind, types.ListType):
            kind = kind.item_type
    return plain(kind)


def field_names(struct: type, steps: list[str | int]) -> list[str]:
    """The fields of the table that `steps` lead to."""
    kind = kind_at(struct, steps)
    return [f.encode_name for f in kind.fields] if isinstance(kind, types.StructType) else []


def allowed(kind: types.Type) -> str:
    """What a value of this type may be, in words."""
    kind = plain(kind)
    return _WORDS[type(kind)](kind)


def _integer(kind: Any) -> str:
    return f"a whole number from {kind.ge} to {kind.le}"


def _text(kind: Any) -> str:
    if kind.pattern:
        return f"a text of the form {kind.pattern}"
    return f"a text of at least {kind.min_length} characters" if kind.min_length else "a text"


def _choice(kind: Any) -> str:
    return "one of " + ", ".join(f'"{value}"' for value in kind.values)


def _list(kind: Any) -> str:
    low, high = kind.min_length or 0, kind.max_length
    count = f"{low} to {high}" if high is not None else f"at least {low}"
    return f"a list of {count}, each {allowed(kind.item_type)}"


def _union(kind: Any) -> str:
    return " or ".join(allowed(each) for each in kind.types if not isinstance(each, types.NoneType))


_WORDS: dict[type, Callable[[Any], str]] = {
    types.IntType: _integer,
    types.BoolType: lambda _: "true or false",
    types.StrType: _text,
    types.LiteralType: _choice,
    types.ListType: _list,
    types.UnionType: _union,
    types.CustomType: lambda kind: str(kind.cls.ALLOWED),
    types.StructType: lambda kind: "a table with " + ", ".join(f.encode_name for f in kind.fields),
}
