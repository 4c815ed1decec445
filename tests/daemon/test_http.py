"""The server of pages: what it answers, and that a caller can neither hold it up nor hurt it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kdht.daemon.pages import http
from kdht.daemon.pages.http import HttpRequest, HttpServer, Response

LARGE = b"x" * (32 << 20)


async def echo(request: HttpRequest) -> Response:
    return Response(repr((request.path, request.query)).encode(), headers=(("X-Own", "1"),))


async def fails(request: HttpRequest) -> Response:
    raise RuntimeError("a bug")


async def large(request: HttpRequest) -> Response:
    return Response(LARGE)


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(
        listener, {"/": echo, "/fails": fails, "/large": large, "/healthz": echo}, ["/healthz"]
    )
    await server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        await server.stop()
        await server.stop()


async def said(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes; a reset ends it too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def run(test: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served() as port:
            await test(port)

    asyncio.run(main())


def get(target: str, method: str = "GET", extra: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode()


def test_a_page_with_its_query():
    async def test(port: int) -> None:
        head, _, body = (await said(port, get("/?a=1&b=%C3%A4&a=2"))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close" in head
        assert b"X-Own: 1" in head
        assert body.decode() == repr(("/", {"a": "1", "b": "ä"}))

    run(test)


def test_head_has_the_headers_alone():
    async def test(port: int) -> None:
        whole, head = await said(port, get("/")), await said(port, get("/", "HEAD"))
        assert whole.startswith(head)
        assert head.endswith(b"\r\n\r\n")

    run(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/nowhere"), 404),
        (get("/", "POST", "Content-Length: 3\r\n") + b"abc", 405),
        (get("/?a=%ff"), 400),
        (get("/?" + "&".join("abcdefghi")), 400),
        (get("http://[bad/"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\0\1\2\3\r\n\r\n", 400),
        (b"GET /".ljust(http.MAX_REQUEST + 1, b"a"), 431),
        (get("/fails"), 500),
    ],
)
def test_a_bad_request_gets_a_status_and_a_line(sent, status):
    async def test(port: int) -> None:
        head, _, body = (await said(port, sent)).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == str(status).encode()
        assert body.count(b"\n") == 1
        assert b"a bug" not in body
        assert (await said(port, get("/"))).startswith(b"HTTP/1.1 200")

    run(test)


def test_a_slow_or_silent_caller_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "SECONDS", 0.2)

    async def test(port: int) -> None:
        assert await said(port, b"") == b""
        assert await said(port, b"GET / HT") == b""

    run(test)


def test_a_caller_that_does_not_take_its_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "SECONDS", 0.3)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/large"))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.0)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while part := await asyncio.wait_for(reader.read(1 << 20), 10):
                got += len(part)
        assert got < len(LARGE)
        writer.close()

    run(test)


def test_too_many_callers_are_refused_and_the_others_served():
    async def test(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(http.MAX_CALLERS)]
        await asyncio.sleep(0.05)
        assert b" 503 " in await said(port, get("/"))
        reader, writer = idle[0]
        writer.write(get("/"))
        assert b" 200 " in await reader.read()
        assert b" 200 " in await said(port, get("/"))
        for _, each in idle:
            each.close()

    run(test)


@pytest.mark.parametrize("held", [http.MAX_CALLERS, http.MAX_CALLERS + http.MAX_MORE, 300])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_health_is_answered_while_others_hold_all_connections(held, sent):
    async def test(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(held)]
        for _, writer in idle:
            writer.write(sent)
        await asyncio.sleep(0.05)
        for _ in range(3):
            assert b" 200 " in await said(port, get("/healthz"))
            assert b" 503 " in await said(port, get("/"))
        for _, each in idle:
            each.close()

    run(test)


def test_stop_cuts_off_those_that_wait():
    async def test() -> None:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()

    asyncio.run(test())
