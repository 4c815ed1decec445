"""A small HTTP server for read-only pages: GET and HEAD, one answer a connection (RFC 9112, through h11).

Contract: callers are bounded in connections at once, bytes of a request, and seconds to take the
answer. Some pages (`always`) are answered even while others hold all connections: a few more callers are heard, the
newest of them in place of the oldest. A caller's error is answered. A page's exception is logged and answered with 500. Neither
reaches the daemon.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import h11

log = logging.getLogger(__name__)

# Bytes. Browsers send one or two kilobytes of headers.
MAX_REQUEST = 8 << 10
# Each costs a descriptor and some KiB. Prometheus, a balancer and a few browsers need no more.
MAX_CALLERS = 32
MAX_MORE = 32
"""Callers beyond those, who are served pages of `always` only."""
# For all of a connection, so a caller that sends a byte a second holds a place no longer.
SECONDS = 10.0
READ_AT_ONCE = 4 << 10
METHODS = (b"GET", b"HEAD")
TEXT = "text/plain; charset=utf-8"


class HttpRequest(NamedTuple):
    path: str
    query: dict[str, str]
    """The first value of each name."""
    headers: dict[str, str]
    """By name in lower case."""


class Response(NamedTuple):
    body: bytes
    status: int = 200
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Page = Callable[[HttpRequest], Awaitable[Response]]


def is_local(host: str) -> bool:
    """Whether a Host header can only mean this machine: no name but localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        # A number cannot be pointed elsewhere, as a name can by DNS.
        return name == "localhost" or ip_address(name) is not None
    except ValueError:
        return False


def refusal(status: int, words: str) -> Response:
    """An answer of one line of text."""
    return Response(f"{words}\n".encode(), status)


class HttpServer:
    """Serves `pages`, by path, on a listening socket, from `start` to `stop`, in the running event loop.

    `always`: the paths of pages that are served to callers above MAX_CALLERS, too.
    """

    def __init__(
        self, listener: socket.socket, pages: Mapping[str, Page], always: Collection[str] = ()
    ) -> None:
        self._listener = listener
        self._pages = pages
        self._always = always
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()
        self._more: dict[asyncio.Task[None], None] = {}
        """Of these, the callers above MAX_CALLERS, the oldest first."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=MAX_REQUEST)

    async def stop(self) -> None:
        """Close the socket and all connections. May be called again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._callers.add(task)
        if len(self._callers) > MAX_CALLERS:
            self._more[task] = None
        if len(self._more) > MAX_MORE:
            # Who holds a connection for long gives way, so that the newest caller is always heard.
            next(iter(self._more)).cancel()
        writer.transport.set_write_buffer_limits(0)  # so that drain() ends when all was taken
        try:
            async with asyncio.timeout(SECONDS):
                await self._converse(reader, writer)
            writer.close()
        except (OSError, TimeoutError, asyncio.CancelledError):
            # A close would wait until the caller has taken the rest.
            writer.transport.abort()
        finally:
            self._callers.discard(task)
            self._more.pop(task, None)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        is_head = False
        try:
            asked = await _request(connection, reader)
            if asked is None:
                return
            is_head = asked.method == b"HEAD"
            answer = await self._answer(asked)
        except h11.RemoteProtocolError as error:
            answer = refusal(error.error_status_hint, str(error))
        writer.write(_encoded(connection, answer, is_head))
        await writer.drain()

    async def _answer(self, asked: h11.Request) -> Response:
        if asked.method not in METHODS:
            return refusal(405, "only GET and HEAD")
        try:
            request = _parsed(asked)
        except ValueError as error:
            return refusal(400, f"no valid target: {error}")
        if asyncio.current_task() in self._more and request.path not in self._always:
            return refusal(503, f"{MAX_CALLERS} callers are served already: try again later")
        page = self._pages.get(request.path)
        if page is None:
            return refusal(404, f"no such page; there are {', '.join(self._pages)}")
        try:
            return await page(request)
        except Exception:
            log.exception("a page failed", extra={"path": request.path})
            # No detail: a stranger may ask.
            return refusal(500, "an error inside the daemon: its log says more")


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request's head; None where the caller went away. Raises RemoteProtocolError."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_AT_ONCE))
        # A body is not read: no page takes one, and the connection closes after the answer.
        elif isinstance(event, h11.Request):
            return event
        else:
            return None


def _parsed(asked: h11.Request) -> HttpRequest:
    parts = urlsplit(asked.target.decode("ascii"))
    query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=8, errors="strict")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in asked.headers}
    return HttpRequest(parts.path, {name: values[0] for name, values in query.items()}, headers)


def _encoded(connection: h11.Connection, answer: Response, is_head: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        # All of it is of this moment.
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *answer.headers,
    ]
    reason = HTTPStatus(answer.status).phrase
    events: list[h11.Event] = [h11.Response(status_code=answer.status, reason=reason, headers=headers)]
    if not is_head:
        events.append(h11.Data(data=answer.body))
    return b"".join(connection.send(event) or b"" for event in events)
