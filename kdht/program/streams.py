"""The three standard streams, so that a program can work with whatever its caller left of them.

A closed one would be None, and its number would go to the next file that is opened: a line meant for standard error
would end up in that. So the number is taken here. Reading from a closed input and writing to a closed output fail with
EBADF, which is a clear error. What is written to a closed standard error is lost.
"""

import codecs
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

_HANDLERS = {"strict": "kdht-escape", "surrogateescape": "kdht-escape-or-byte"}
"""The stand-ins for Python's error handlers of an output, which raise."""
_MODES = {"stdin": os.O_WRONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
"""The wrong direction for stdin and stdout, on purpose: an empty input or a lost output would look like success."""


def prepare() -> None:
    """Called first, before a program opens any file."""
    for number, (name, mode) in enumerate(_MODES.items()):
        if getattr(sys, name) is None:
            _replace(number, name, mode)
    codecs.register_error("kdht-escape", _escaped)
    codecs.register_error("kdht-escape-or-byte", _escaped_or_byte)
    for stream in (sys.stdout, sys.stderr):
        # An encoding such as ASCII lacks some characters of keys and tables.
        handler = _HANDLERS.get(getattr(stream, "errors", ""))
        if handler is not None:
            stream.reconfigure(errors=handler)  # type: ignore[union-attr]


def complain(text: str, patience_s: float | None = None) -> None:
    """A line on standard error. Never raises. Gives up after `patience_s` if nobody reads what was written before."""
    # Standard error may be closed, and there is no other place to complain.
    with suppress(OSError, ValueError):
        if patience_s is None or _takes_more(sys.stderr, patience_s):
            print(text, file=sys.stderr, flush=True)


def _takes_more(stream: TextIO, seconds: float) -> bool:
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # no file: nobody who could stall
        return True
    return has_room(fd, seconds)


def has_room(fd: int, seconds: float) -> bool:
    """Whether a short line can be written without a wait."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _replace(number: int, name: str, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
    os.set_inheritable(number, True)
    stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)


def _escaped_or_byte(error: UnicodeError) -> tuple[str | bytes, int]:
    """An argument's undecodable byte as it came; all else escaped."""
    if isinstance(error, UnicodeEncodeError) and 0xDC80 <= ord(error.object[error.start]) <= 0xDCFF:
        return bytes([ord(error.object[error.start]) - 0xDC00]), error.start + 1
    return _escaped(error)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """JSON's escapes, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{text[at : at + 4]}" for at in range(0, len(text), 4)), error.start + 1
