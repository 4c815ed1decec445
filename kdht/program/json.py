"""JSON from outside: a value of the wanted form, or ValueError with one clear line."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decoded(data: bytes, kind: type[T]) -> T:
    """The value of JSON text. Raises ValueError, for all that it can hold: other forms, great numbers, deep nesting."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
