"""The short way of the HTTP face beside h11: the same requests are read, and the same answers written."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdht.faces.http import common, connection
from kdht.faces.http.answers import Answer, problem
from kdht.faces.http.common import Whole
from kdht.faces.http.connection import MAX_HEAD, MAX_HEADERS, Connection, Request

GET = b"GET /kv/a?quorum HTTP/1.1\r\nHost: n1:5381\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
PUT = b"PUT /kv/a HTTP/1.1\r\nhost:n1\r\nContent-Length: 5\r\nTTL: 60\r\n\r\nhello"
PIECES = st.sampled_from(
    [b"GET", b"PUT", b"HEAD", b"DELETE", b"POST", b" ", b"/kv/a", b"\x80", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":", b": ",
     b"Host", b"host", b"n1", b"Content-Length", b"5", b"0", b"05", b"+5", b"5,5", b"Transfer-Encoding", b"chunked", b"Connection", b"close", b"keep-alive", b"Upgrade",
     b"Expect", b"100-continue", b"X-A", b"\t", b"  ", b"hello", b"", b"A" * 300, b"HTTP/1.1\r\nHost: n1\r\n", b"\r\n\r\n", b"GET /kv/a HTTP/1.1\r\nHost: n1\r\n"]
)  # fmt: skip


def read(data: bytes) -> Whole | None:
    return common.read(data, MAX_HEADERS, MAX_HEAD)


def by_h11(data: bytes) -> Whole | None:
    """The same by h11; None unless `data` is one request, all of it, after which the connection goes on."""
    server, body = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD), b""
    server.receive_data(data)
    try:
        head = server.next_event()
        while not isinstance(event := server.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
            body += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    assert isinstance(head, h11.Request)
    if server.trailing_data[0] or server.their_state is not h11.DONE:
        return None
    headers = connection._headers(head)
    return Whole(head.method.decode(), bytes(head.target), headers, body)


@given(st.one_of(st.lists(PIECES, max_size=24).map(b"".join), st.binary(max_size=200)))
def test_whatever_is_read_here_h11_reads_alike(data: bytes) -> None:
    for each in (data, b"GET /kv/a HTTP/1.1\r\nHost: n1\r\n" + data, GET + data, PUT[:-5] + data):
        found = read(each)
        assert found is None or found == by_h11(each)


@pytest.mark.parametrize("data", [GET, PUT, GET.replace(b"GET", b"HEAD"), GET.replace(b"GET", b"DELETE"),
                                  GET.replace(b"Accept", b"Connection: Keep-Alive\r\nAccept")])  # fmt: skip
def test_usual_requests_go_the_short_way(data: bytes) -> None:
    assert read(data) == by_h11(data) is not None


@pytest.mark.parametrize(
    "data",
    [
        GET[:-1], GET + b"x", GET + GET, GET.replace(b"1.1", b"1.0"), GET.replace(b"\r\n", b"\n"), GET.replace(b"Host", b"Hos"),
        GET.replace(b"Accept: */*", b"Host: n2"), GET.replace(b"Accept: */*", b"Connection: close"), GET.replace(b"Accept", b"Accept "),
        GET.replace(b"Accept: */*", b"Transfer-Encoding: chunked"), GET.replace(b"Accept: */*", b"Upgrade: websocket"),
        GET.replace(b"Accept: */*", b" folded: yes"), GET.replace(b"*/*", b"\x00"), GET.replace(b"*/*", b"a\rb"), GET.replace(b"/kv/a", b"/kv/\xe4"),
        GET.replace(b"GET", b"POST"), GET.replace(b"*/*", b"a" * MAX_HEAD), GET.replace(b"Accept: */*\r\n", b"".join(b"a%d: b\r\n" % n for n in range(63))),
        PUT[:-1], PUT + b"x", PUT.replace(b"TTL: 60", b"Expect: 100-continue"), PUT.replace(b"TTL: 60", b"Content-Length: 5"),
        PUT.replace(b": 5", b": +5"), PUT.replace(b": 5", b": 5, 5"),
    ],
)  # fmt: skip
def test_all_else_is_left_to_h11(data: bytes) -> None:
    assert read(data) is None


class Caller:
    """Sends its pieces, one read each, and keeps what it gets. Reader, writer and transport in one."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.got = b""
        self.transport = self

    async def read(self, most: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def write(self, data: bytes) -> None:
        self.got += data

    async def drain(self) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None: ...

    def abort(self) -> None: ...


async def stream() -> AsyncGenerator[bytes, None]:
    yield b"first"
    yield b"second"


ANSWERS = {
    "value": lambda: Answer(200, (("ETag", '"5"'), ("TTL", "7")), b"hello"),
    "empty": lambda: Answer(200),
    "none": lambda: Answer(204),
    "unchanged": lambda: Answer(304, (("ETag", '"5"'),)),
    "problem": lambda: problem(404, "not_found", "there is no ä"),
    "long": lambda: Answer(200, (), b"begin", stream(), 16),
    "endless": lambda: Answer(200, (), b"begin", stream()),
}


@pytest.mark.parametrize("data", [GET, GET.replace(b"GET", b"HEAD"), PUT])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_has_the_same_bytes_either_way(answer: str, data: bytes, monkeypatch) -> None:
    monkeypatch.setattr(connection.time, "time", lambda: 1e9)
    asked: list[tuple[object, ...]] = []

    async def handle(request: Request) -> Answer:
        body = b"".join([part async for part in request.body])
        asked.append((*request[:4], body))
        return ANSWERS[answer]()

    async def talk(*pieces: bytes) -> bytes:
        caller = Caller(*pieces)
        await Connection(caller, caller, bytes(16), handle, Counter()).serve()  # type: ignore[arg-type]
        return caller.got

    once = asyncio.run(talk(data))
    assert once.startswith(b"HTTP/1.1 ")
    assert asyncio.run(talk(data[:10], data[10:])) == once
    # Both ways, in turns, on one connection.
    if answer != "endless":
        assert asyncio.run(talk(data, data[:10], data[10:], data + data, data)) == 5 * once
    assert len(set(map(repr, asked))) == 1
