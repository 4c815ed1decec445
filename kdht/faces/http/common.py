"""A whole request in one piece, as nearly all are, and an answer in one piece: without h11's state machine.

`read` takes only what h11 would take in exactly the same way; the rest is left to h11. It reads a GET in a tenth of
h11's time. tests/faces/test_http_common.py compares the two. No I/O and no clock.
"""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from kdht.faces.http.answers import Headers

# A line has one way to match, so a hostile head takes linear time.
_HEAD = re.compile(
    rb"(GET|HEAD|PUT|DELETE) ([!-~]+) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9\-]+: ?[!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,5}")
_OF_H11 = frozenset({"transfer-encoding", "upgrade", "expect"})
"""Headers that change how the rest is read."""


class Whole(NamedTuple):
    """A request with its body. The names of headers are in lower case, and each is there once."""

    method: str
    target: bytes
    headers: dict[str, str]
    body: bytes


def read(data: bytes, most_headers: int, most_head_bytes: int) -> Whole | None:
    """An untrusted request that fills `data` exactly. None: h11 has to look at it."""
    found = _HEAD.match(data)
    if found is None or found.end() > most_head_bytes:
        return None
    lines = found[3].decode("ascii").split("\r\n")
    if len(lines) - 1 > most_headers:
        return None
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.removeprefix(" ")
    # Fewer: one was there twice.
    if len(headers) < len(lines) - 1 or not _is_usual(headers, len(data) - found.end()):
        return None
    return Whole(found[1].decode("ascii"), found[2], headers, data[found.end() :])


def _is_usual(headers: dict[str, str], body_bytes: int) -> bool:
    length = headers.get("content-length", "0")
    return (
        "host" in headers
        and _OF_H11.isdisjoint(headers)
        and headers.get("connection", "keep-alive").lower() == "keep-alive"
        and _LENGTH.fullmatch(length) is not None
        and int(length) == body_bytes
    )


def head(status: int, headers: Headers) -> bytes:
    """An answer's head, as h11 writes it. The headers are the server's own, so they are not looked at."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return _status_line(status) + lines.encode("latin-1") + b"\r\n"


@lru_cache(64)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode("ascii")
