"""Arguments of users, checked before anything is sent.

A value may be any object with a buffer. An array, or a memoryview with wide items or with gaps, counts as the bytes that
it contains, whatever its `len` is.
"""

import math
from numbers import Real
from operator import index
from typing import TypeAlias

from kdht.client._datagram import MAX_ATTEMPTS
from kdht.errors import BadArgument
from kdht.wire import Buffer, hash_key

Key: TypeAlias = str | bytes

MAX_TIMEOUT = 86400.0
"""Seconds. No program wants to wait longer, and select and epoll cannot."""
# Each request under way needs a request ID of its own and a timer. More would only wait in the sockets.
MAX_WINDOW = 65536


def data_of(value: Buffer, what: str = "a value") -> bytes:
    """All bytes of a buffer. Raises TypeError for an object without one."""
    if isinstance(value, bytes):
        return value
    try:
        return memoryview(value).tobytes()
    except TypeError:
        hint = ": encode it first, with .encode()" if isinstance(value, str) else ""
        raise TypeError(
            f"{what} is bytes, a bytearray or a memoryview, not {type(value).__name__}{hint}"
        ) from None


def name_of(key: Key) -> Key:
    """A key as text or as bytes. Raises TypeError for anything else."""
    if not isinstance(key, (str, bytes)):
        try:
            return data_of(key)
        except TypeError:
            raise TypeError(f"a key is a str or bytes, not {type(key).__name__}") from None
    return key


def hash_of(name: Key) -> bytes:
    """The 20-byte hash of a key. Raises ValueError for text that has no UTF-8 form."""
    try:
        return hash_key(name)
    except UnicodeEncodeError as error:
        raise ValueError(f"a key that is a str has a UTF-8 form; {name!r} has none: {error.reason}") from None


def limits(timeout: float, attempts: int) -> tuple[float, int]:
    """The two limits of a request, checked. Raises BadArgument (a ValueError) out of range, TypeError for no number."""
    if not isinstance(timeout, Real):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    seconds = float(timeout)
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_TIMEOUT):
        raise BadArgument(f"timeout is a number of seconds above 0, at most {MAX_TIMEOUT:g}, not {timeout!r}")
    return seconds, whole_number("attempts", attempts, 1, MAX_ATTEMPTS)


def whole_number(what: str, given: int, least: int, most: int) -> int:
    """`given`, checked. Raises BadArgument out of bounds, TypeError for what is no whole number."""
    if type(given) is int and least <= given <= most:
        return given
    try:
        number = index(given)
    except TypeError:
        raise TypeError(
            f"{what} is a whole number from {least} to {most}, not the {type(given).__name__} {given!r}"
        ) from None
    if not least <= number <= most:
        raise BadArgument(f"{what} is a number from {least} to {most}, not {given!r}")
    return number
