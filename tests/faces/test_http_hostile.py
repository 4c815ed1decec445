"""The HTTP server against callers who mean it harm: each is answered or ended within its bounds, and others are served meanwhile."""

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from kdht.config.values import FaceEndpoint
from kdht.errors import ConfigError
from kdht.faces.http import connection as connections
from kdht.faces.http import pace, server
from kdht.faces.http.answers import Answer, Refused, refused
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.connection import Request
from kdht.faces.http.fields import small_body
from kdht.faces.http.server import HttpServer

PATIENCE = 30.0
HOST = b"Host: a\r\n"
ANSWERS = re.compile(rb"HTTP/1\.1 \d{3} ")
BIG = b"x" * (32 << 20)


def everybody(ip: bytes) -> bool:
    return True


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"data: x\n\n"
        await asyncio.sleep(0.01)


async def big() -> AsyncGenerator[bytes, None]:
    for start in range(0, len(BIG), 1 << 20):
        yield BIG[start : start + (1 << 20)]


async def breaks() -> AsyncGenerator[bytes, None]:
    yield b"y" * 1000
    raise ConnectionAbortedError("the value was replaced")


async def handle(request: Request) -> Answer:
    """Echoes a body; paths for answers of other kinds."""
    match request.target:
        case b"/fault":
            raise RuntimeError("a secret detail")
        case b"/big":
            return Answer(200, (), b"", big(), len(BIG))
        case b"/endless":
            return Answer(200, (), b"first", endless())
        case b"/breaks":
            return Answer(200, (), b"x", breaks(), 5000)
        case b"/unread":
            raise refused(412, "conflict", "not now")
    return Answer(200, (), request.method.encode() + b" " + await small_body(request, 1 << 20))


class Served(NamedTuple):
    port: int
    counts: Counter[str]
    server: HttpServer


@asynccontextmanager
async def served(most: int = 8, most_of_one: int = 8) -> AsyncIterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    counts = Counter[str]()
    made = HttpServer(
        [FaceEndpoint(f"127.0.0.1:{port}")],
        handle,
        everybody,
        counts,
        most=most,
        most_of_one=most_of_one,
    )
    await made.start()
    try:
        yield Served(port, counts, made)
    finally:
        await made.stop()
        await made.stop()


def run(test: Callable[[Served], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        async with asyncio.timeout(3 * PATIENCE), served(**options) as at:
            await test(at)
        # Whatever happened, no connection is left.
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def said(at: Served, sent: bytes, *, end: bool = False) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        writer.write(sent)
        if end:
            writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(reader.read(), PATIENCE)
        return b""
    finally:
        writer.close()


def get(path: str = "/", *, close: bool = True) -> bytes:
    ending = b"Connection: close\r\n\r\n" if close else b"\r\n"
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + ending


async def serves(at: Served) -> None:
    assert (await said(at, get())).endswith(b"GET ")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of time are short, to be seen."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.5)
    monkeypatch.setattr(pace, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(server, "STOP_SECONDS", 0.5)


# --- Slow ones


def test_a_head_byte_by_byte_is_ended(short: None) -> None:
    async def test(at: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)

        async def drip() -> None:
            with contextlib.suppress(OSError):
                for byte in get() * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(reader.read(200), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()
        assert at.counts["slow_head"] == 1
        await serves(at)

    run(test)


def test_silence_is_ended_without_a_word(short: None) -> None:
    async def test(at: Served) -> None:
        assert await said(at, b"") == b""
        kept = await said(at, get(close=False))
        assert kept.endswith(b"GET ")

    run(test)


def test_a_body_byte_by_byte_is_ended(short: None) -> None:
    async def test(at: Served) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n" + HOST + b"\r\n")

        async def drip() -> None:
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        await until(lambda: at.counts["slow"])
        dripping.cancel()
        writer.close()
        await serves(at)

    run(test)


def test_a_caller_that_takes_nothing_is_ended(short: None) -> None:
    async def test(at: Served) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", at.port, limit=1)
        writer.write(get("/big"))
        await until(lambda: at.counts["slow"] == 1)
        writer.close()
        await serves(at)

    run(test)


def test_a_caller_that_leaves_an_endless_answer_is_noticed() -> None:
    async def test(at: Served) -> None:
        reader, writer = await opened(at, get("/endless"))
        await reader.readuntil(b"first")
        writer.write_eof()
        await until(lambda: at.counts["broken_off"] == 1)
        writer.close()
        await serves(at)

    run(test)


def test_a_slow_line_that_goes_on_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the grace in all, at more than the least pace."""
    monkeypatch.setattr(pace, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(pace, "BYTES_PER_SECOND", 100)

    async def test(at: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: 10000\r\n" + HOST + b"\r\n")
        for _ in range(10):
            writer.write(bytes(1000))
            await asyncio.sleep(0.1)
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(bytes(10_000))
        writer.close()

    run(test)


# --- Heads that are no good

TOO_LONG = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
BOMB = b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"a%d: b\r\n" % n for n in range(5000)) + b"\r\n"
MANY = b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 100 + b"\r\n"
NEVER_ENDS = b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"b" * 100_000


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (TOO_LONG, {431}),
        (BOMB, {431}),
        (MANY, {431}),
        (NEVER_ENDS, {431}),
        (b"GET / HTTP/1.1\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a\x00b: c\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\rc\r\n\r\n", {400}),
        (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", {200, 400}),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", {400, 505}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", {400}),
        (b"hello\r\n\r\n", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: -3\r\n\r\nabcd", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabcd", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", {400}),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 9999999\r\n\r\n" + bytes(2 << 20), {413}),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_the_connection_ends(sent: bytes, statuses: set[int]) -> None:
    async def test(at: Served) -> None:
        answer = await said(at, sent, end=True)
        assert answer.startswith(b"HTTP/1.1 ")
        assert int(answer.split()[1]) in statuses
        assert len(ANSWERS.findall(answer)) == 1, "a second request was found in it"
        await serves(at)

    run(test)


def test_requests_in_a_row_are_answered_in_their_order() -> None:
    async def test(at: Served) -> None:
        put = b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n" + HOST + b"\r\n"
        answer = await said(at, put + b"ab" + put + b"cd" + get())
        assert [answer.index(each) for each in (b"PUT ab", b"PUT cd", b"GET ")] == sorted(
            answer.index(each) for each in (b"PUT ab", b"PUT cd", b"GET ")
        )
        assert answer.count(b" 200 ") == 3

    run(test)


def test_a_body_that_is_not_read_is_no_request() -> None:
    """Else the body of one caller, through a proxy, would be another's request."""

    async def test(at: Served) -> None:
        inner = get("/big")
        sent = b"PUT /unread HTTP/1.1\r\nContent-Length: %d\r\n" % len(inner) + HOST + b"\r\n" + inner
        answer = await said(at, sent)
        assert answer.startswith(b"HTTP/1.1 412 ")
        assert len(ANSWERS.findall(answer)) == 1
        assert b"Connection: close" in answer

    run(test)


def test_a_fault_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test(at: Served) -> None:
        answer = await said(at, get("/fault"))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in answer
        assert "a secret detail" in caplog.text
        await serves(at)

    run(test)


def test_an_answer_that_breaks_off_is_seen_to() -> None:
    async def test(at: Served) -> None:
        answer = await said(at, get("/breaks"))
        assert b"Content-Length: 5000" in answer
        assert len(answer.partition(b"\r\n\r\n")[2]) < 5000

    run(test)


# --- Places


async def opened(at: Served, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(sent)
    return reader, writer


def test_one_client_has_its_share_of_places() -> None:
    async def test(at: Served) -> None:
        kept = [await opened(at, get("/endless", close=False)) for _ in range(3)]
        for reader, _ in kept:
            await reader.readuntil(b"first")
        assert await said(at, get()) == b""
        assert at.counts["too_many_of_client"] == 1
        for _, writer in kept:
            writer.transport.abort()
        await until(lambda: not at.server._connections)
        await serves(at)

    run(test, most_of_one=3)


def test_an_idle_connection_gives_way_to_a_new_one() -> None:
    async def test(at: Served) -> None:
        kept = [await opened(at, get(close=False)) for _ in range(3)]
        for reader, _ in kept:
            await reader.readuntil(b"GET ")
        await until(lambda: all(each and each.is_idle for each in at.server._connections.values()))
        await serves(at)
        assert await asyncio.wait_for(kept[0][0].read(), PATIENCE) == b""
        assert at.counts["gave_way"] == 1
        kept[1][1].write(get())
        assert (await asyncio.wait_for(kept[1][0].read(), PATIENCE)).endswith(b"GET ")
        for _, writer in kept:
            writer.close()

    run(test, most=3)


def test_who_works_does_not_give_way() -> None:
    async def test(at: Served) -> None:
        kept = [await opened(at, get("/endless")) for _ in range(3)]
        for reader, _ in kept:
            await reader.readuntil(b"first")
        assert await said(at, get()) == b""
        assert at.counts["too_many"] == 1
        for _, writer in kept:
            writer.transport.abort()

    run(test, most=3)


def test_a_stop_ends_the_endless_and_finishes_the_others(short: None) -> None:
    async def test(at: Served) -> None:
        reader, writer = await opened(at, get("/endless"))
        await reader.readuntil(b"first")
        putting, sender = await opened(at, b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n" + HOST + b"\r\na")
        await until(lambda: sum(bool(each) for each in at.server._connections.values()) == 2)
        stopping = asyncio.create_task(at.server.stop())
        await asyncio.sleep(0)
        sender.write(b"b")
        assert (await asyncio.wait_for(putting.read(), PATIENCE)).endswith(b"PUT ab")
        await stopping
        await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        sender.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", at.port)

    run(test)


def test_a_port_in_use_is_an_error_with_advice() -> None:
    async def test(at: Served) -> None:
        listen = [FaceEndpoint(f"127.0.0.1:{at.port}")]
        other = HttpServer(listen, handle, everybody, Counter(), most=1, most_of_one=1)
        with pytest.raises(ConfigError, match=r"http\.listen has 127\.0\.0\.1:.*stop what uses it"):
            await other.start()
        await other.stop()

    run(test)


def test_room_is_bounded_and_comes_back() -> None:
    memory = CallerMemory(100)
    with memory.taken(60), memory.taken(40), pytest.raises(Refused) as raised:
        memory.taken(1).__enter__()
    assert raised.value.answer.status == 503
    with memory.taken(100):
        pass
