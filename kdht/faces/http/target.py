"""Request targets: which value or set is meant. No I/O and no clock.

A name is all of the path behind /kv/ or /sets/, percent-decoded. Proxies and clients change some paths on their way (dot segments,
two slashes in a row), so names that would be changed are refused: one name has one path. Untrusted bytes become a Target or Refused.
"""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from kdht.faces.http.answers import Refused, refused

MAX_NAME = 1024
"""Bytes of a name, decoded."""
# No request of this API has more than a few.
MAX_FIELDS = 8

# RFC 3986: unreserved, sub-delims, ":", "@", "/", "?", and percent-encoded bytes.
_ALLOWED = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")
_ORIGIN = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^/?]*")
"""A proxy's client sends the whole URL (RFC 9112, section 3.2.2)."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_FLAGS = {"": True, "1": True, "true": True, "0": False, "false": False}


class Target(NamedTuple):
    """`room`: the path's first segment; `name`: all behind it, decoded for kv and sets."""

    room: str
    name: str
    query: dict[str, str]

    def flag(self, name: str) -> bool:
        """Whether `?name` or `?name=1` is there. Raises Refused."""
        value = self.query.get(name, "0").lower()
        if value not in _FLAGS:
            raise bad(f"?{name} is a flag: leave its value out")
        return _FLAGS[value]

    def text(self, name: str, most: int) -> str | None:
        """The value of `?name`, None without it. Raises Refused for more than `most` bytes."""
        value = self.query.get(name)
        if value is not None and len(value.encode()) > most:
            raise bad(f"?{name} has at most {most} bytes")
        return value

    def only(self, *allowed: str) -> None:
        """Raises Refused for a parameter that is not one of these: one that is misspelt must not be ignored."""
        unknown = sorted(self.query.keys() - set(allowed))
        if unknown:
            there_are = ", ".join(f"?{name}" for name in allowed) or "none"
            raise bad(f"there is no parameter {unknown[0]!r} here, but {there_are}")


def bad(detail: str) -> Refused:
    return refused(400, "bad_target", detail)


def parse(raw: bytes) -> Target:
    """From an untrusted request's first line. Raises Refused."""
    text = raw.decode("latin-1")
    if not _ALLOWED.fullmatch(text):
        raise bad("the target has a character that has to be percent-encoded, or a broken escape")
    text = _ORIGIN.sub("", text, count=1) if not text.startswith("/") else text
    path, _, query = text.partition("?")
    room, _, rest = path.removeprefix("/").partition("/")
    if not path.startswith("/"):
        raise bad("a path begins with a slash")
    name = _name(rest) if room in ("kv", "sets") else rest
    return Target(room, name, _query(query))


def _name(quoted: str) -> str:
    try:
        name = unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        raise bad("a name is percent-encoded UTF-8") from None
    if not 1 <= len(name.encode()) <= MAX_NAME:
        raise bad(f"a name has 1 to {MAX_NAME} bytes")
    if _CONTROLS.search(name):
        raise bad("a name has no control characters")
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise bad(
            "a name has no empty segment and none that is . or ..: proxies and clients change such paths"
        )
    return name


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise bad(f"a query has at most {MAX_FIELDS} fields, in percent-encoded UTF-8") from None
    found = dict(fields)
    if len(found) < len(fields):
        raise bad("each parameter may be there once")
    return found
