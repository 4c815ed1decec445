"""The HTTP face: any bytes as what a caller sends on one connection, and any texts in the headers that it reads itself.

Invariant: whatever comes, the connection ends by itself, with answers of HTTP/1.1 alone. The service gets no more requests than there are
answers. A target is one name, which its quoted form gives again, or it is refused; a part lies within its value; a condition that holds
for two versions is no single version.

    | choices | bytes ... |

A choice takes the bytes as a target, as If-Match, If-None-Match or Range; else they are the connection's.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from fuzz.targets.events import Reader
from kdht.faces.http import target as targets
from kdht.faces.http.answers import Answer, Refused
from kdht.faces.http.conditions import conditions_of, part_of
from kdht.faces.http.connection import Connection, Request
from kdht.faces.http.fields import small_body, ttl_of

TARGET, MATCH, NONE_MATCH, RANGE = 1, 2, 3, 4
KINDS = 8
SIZE = 100
VERSIONS = (0, 5, 6)
MOST = 64 << 10
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z \-]+\r\n")
LOOP = asyncio.new_event_loop()


class Writer:
    """Takes the place of a socket's writer: keeps all that is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.transport = self
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    async def drain(self) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None: ...

    def abort(self) -> None: ...


def check_target(raw: bytes) -> None:
    found = targets.parse(raw)
    if found.room in ("kv", "sets"):
        assert 1 <= len(found.name.encode()) <= targets.MAX_NAME
        assert not {"", ".", ".."} & set(found.name.split("/"))
        assert not re.search("[\x00-\x1f\x7f-\x9f]", found.name)
        again = targets.parse(f"/{found.room}/{quote(found.name)}".encode())
        assert again.name == found.name


def check_headers(headers: dict[str, str]) -> None:
    conditions = conditions_of(headers)
    if conditions.version is not None:
        assert [each for each in VERSIONS if conditions.holds(each)] in ([], [conditions.version])
    part = part_of(headers, VERSIONS[1], SIZE)
    assert part is None or 0 <= part.begin < part.end <= SIZE
    ttl = ttl_of(headers, SIZE)
    assert ttl is None or 1 <= ttl <= SIZE


async def converse(data: bytes) -> tuple[int, bytes]:
    """How many requests the service got, and all that the caller got."""
    requests = 0

    async def handle(request: Request) -> Answer:
        nonlocal requests
        requests += 1
        assert request.method.isascii()
        assert all(name == name.lower() for name in request.headers)
        try:
            check_target(request.target)
            check_headers(request.headers)
            return Answer(200, (), await small_body(request, SIZE))
        except Refused as refusal:
            return refusal.answer

    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    writer: Any = Writer()
    await asyncio.wait_for(Connection(reader, writer, bytes(16), handle, Counter()).serve(), 10)
    return requests, bytes(writer.written)


def one(data: bytes) -> None:
    reader = Reader(data)
    kind, rest = reader.byte() % KINDS, reader.bytes(MOST)
    text = rest.decode("latin-1")
    try:
        if kind == TARGET:
            check_target(rest)
        elif kind in (MATCH, NONE_MATCH, RANGE):
            name = {MATCH: "if-match", NONE_MATCH: "if-none-match", RANGE: "range"}[kind]
            check_headers({name: text})
        else:
            requests, said = LOOP.run_until_complete(converse(rest))
            statuses = [int(each) for each in STATUS.findall(said)]
            assert not said or said.startswith(b"HTTP/1.1 ")
            assert 500 not in statuses, "a fault"
            assert requests <= sum(status >= 200 for status in statuses) + 1
    except Refused:
        return  # which is the other half of the invariant


def seeds() -> Iterator[tuple[str, bytes]]:
    put = b'PUT /kv/a%2Fb?scope=x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nIf-Match: "5"\r\nTTL: 60\r\n\r\nab'
    chunked = (
        b"PUT /sets/a?member=b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    get = b"GET /kv/a?quorum HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\n"
    yield "requests", bytes([0]) + put + chunked + get
    yield "expect", bytes([0]) + put.replace(b"TTL: 60", b"Expect: 100-continue")
    yield "head", bytes([0]) + get.replace(b"GET", b"HEAD").replace(b"1.1\r\n", b"1.0\r\n")
    yield "target", bytes([TARGET]) + b"http://a/kv/%C3%A4/b?quorum&scope=x"
    yield "match", bytes([MATCH]) + b'"5", W/"6" , "a"'
    yield "none_match", bytes([NONE_MATCH]) + b"*"
    yield "range", bytes([RANGE]) + b"bytes=1-2"
