"""One connection: requests in, answers out (RFC 9112). What a request means is the service's matter.

A request that is here in one piece is read by `common`, and answered without h11 if its answer is in one piece, too. h11 then never
hears of it. All others go through h11.

Contract: a caller's bytes become a Request or an answer with the reason, never an exception. Bounded are the bytes of a head, the time for it, the
time between requests, the pace of bodies and of answers. A body that the service has not read ends the connection.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import h11

from kdht.faces.http import common
from kdht.faces.http.answers import Answer, Headers, Refused, problem, refused
from kdht.faces.http.common import Whole
from kdht.faces.http.pace import Pace

log = logging.getLogger(__name__)

# Bytes. Usual servers take 8 to 32 KiB.
MAX_HEAD = 16 << 10
# Clients and proxies send some twenty.
MAX_HEADERS = 64
# A head that comes slower is an attack (slow loris), or a link on which no answer would be useful either.
HEAD_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""Between two requests."""
# Closing with unread data sends a reset, which may overtake the answer. So the rest is read, but not for
# long.
LINGER_SECONDS = 2.0
# Of an upload that was refused: some clients send all before they read.
LINGER_BYTES = 1 << 20
READ_AT_ONCE = 64 << 10
WRITE_AT_ONCE = 64 << 10


class Request(NamedTuple):
    """A request's head, and its body as it arrives."""

    method: str
    target: bytes
    headers: dict[str, str]
    """By name in lower case; several of one name are joined by commas."""
    length: int | None
    """Bytes of the body; None if only its end will tell."""
    body: AsyncIterator[bytes]
    ip: bytes
    """16 bytes, as Address.ip."""


Handle = Callable[[Request], Awaitable[Answer]]


class Connection:
    """`handle` answers a request; what it raises is answered with 500. `counts` gets refusals by reason."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ip: bytes,
        handle: Handle,
        counts: Counter[str],
    ) -> None:
        self.is_idle = False
        """It waits for another request, so it may be closed."""
        self._reader, self._writer = reader, writer
        self._ip = ip
        self._handle = handle
        self._counts = counts
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._is_over = False
        self._is_whole = False
        """All of the request under way is here, and h11 has not seen it."""
        # So that drain() ends when all was taken, and no slow caller leaves a buffer behind.
        writer.transport.set_write_buffer_limits(0)

    async def serve(self) -> None:
        """Until either side ends it. Closes the connection."""
        try:
            while await self._serve_one() and not self._is_over:
                if not self._is_whole:
                    self._h11.start_next_cycle()
                self.is_idle = True
            await self._linger()
            self._writer.close()
        except TimeoutError:
            self._counts["slow"] += 1
        except (OSError, h11.ProtocolError):
            self._counts["broken_off"] += 1
        finally:
            # After an ordinary close there is nothing left to send. Else it would wait for the caller.
            self._writer.transport.abort()

    def end(self) -> None:
        """Close it after the answer under way."""
        self._is_over = True

    # --- In

    async def _serve_one(self) -> bool:
        """One request and its answer. False: there are no more."""
        is_head = False
        try:
            head = await self._head()
            if head is None:
                return False
            is_head = head.method in (b"HEAD", "HEAD")
            answer = await (self._answer_whole(head) if isinstance(head, Whole) else self._answer(head))
        except h11.RemoteProtocolError as error:
            self._counts["bad_head"] += 1
            answer = problem(error.error_status_hint, "bad_head", str(error))
        except Refused as refusal:
            # Of the head, or a fault of ours: what follows may not be what it seems.
            self._is_over = True
            self._counts[refusal.reason] += 1
            answer = refusal.answer
        await self._send(answer, is_head=is_head)
        return self._is_whole or (self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE)

    async def _head(self) -> h11.Request | Whole | None:
        """None where the caller went away. Raises RemoteProtocolError, and Refused if it takes too long."""
        self._is_whole = False
        loop = asyncio.get_running_loop()
        got_bytes = bool(self._h11.trailing_data[0])
        try:
            async with asyncio.timeout(IDLE_SECONDS if self.is_idle else HEAD_SECONDS) as limit:
                while (event := self._h11.next_event()) is h11.NEED_DATA:
                    data = await self._reader.read(READ_AT_ONCE)
                    if data and not got_bytes:
                        got_bytes, self.is_idle = True, False
                        whole = common.read(data, MAX_HEADERS, MAX_HEAD)
                        if whole is not None:
                            self._is_whole = True
                            return whole
                        limit.reschedule(loop.time() + HEAD_SECONDS)
                    self._h11.receive_data(data)
        except TimeoutError:
            if not got_bytes:
                return None
            raise refused(408, "slow_head", f"a head has to be here within {HEAD_SECONDS:g} s") from None
        self.is_idle = False
        return event if isinstance(event, h11.Request) else None

    async def _answer(self, head: h11.Request) -> Answer:
        headers, length = _headers(head), _length(head)
        if length == 0:
            self._h11.next_event()  # the end of the message: the connection stays open, whatever the answer is
        method, body = head.method.decode("ascii"), self._body() if length != 0 else _no_body()
        return await self._handled(Request(method, bytes(head.target), headers, length, body, self._ip))

    async def _answer_whole(self, came: Whole) -> Answer:
        body = _in_one_piece(came.body)
        request = Request(came.method, came.target, came.headers, len(came.body), body, self._ip)
        answer = await self._handled(request)
        if answer.rest is not None:
            self._tell_h11(came)
        return answer

    def _tell_h11(self, came: Whole) -> None:
        """Let h11 hear of a request after all: it knows how to frame a stream."""
        self._is_whole = False
        fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in came.headers.items()]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        first = b"%s %s HTTP/1.1\r\n" % (came.method.encode("ascii"), came.target)
        self._h11.receive_data(first + lines + b"\r\n" + came.body)
        while not isinstance(self._h11.next_event(), h11.EndOfMessage):
            pass

    async def _handled(self, request: Request) -> Answer:
        try:
            return await self._handle(request)
        except (Refused, OSError, TimeoutError, h11.ProtocolError):
            raise
        except Exception:
            log.exception("a request failed")
            # No detail: a stranger may ask.
            raise refused(500, "fault", "an error in kdht-faces: its log says more") from None

    async def _body(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises OSError if the caller breaks it off, TimeoutError if it is too slow."""
        pace = Pace()
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self._writer.write(self._h11.send(go_on))
        while not isinstance(event := self._h11.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await pace.wait(self._reader.read(READ_AT_ONCE))
                pace.moved(len(data))
                self._h11.receive_data(data)
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                raise ConnectionResetError("the caller broke its request off")

    # --- Out

    async def _send(self, answer: Answer, *, is_head: bool) -> None:
        pace = Pace()
        try:
            if is_head:
                answer = answer._replace(length=answer.length or len(answer.body), body=b"")
            if self._is_whole:
                await self._write(pace, common.head(answer.status, self._headers_of(answer)), answer.body)
                return
            await self._write(pace, self._head_of(answer), self._data(answer.body))
            if answer.rest is not None and not is_head:
                await self._send_rest(answer.rest, pace, is_endless=answer.length is None)
            await self._write(pace, self._h11.send(h11.EndOfMessage()))
        finally:
            if answer.rest is not None:
                await answer.rest.aclose()

    def _headers_of(self, answer: Answer) -> Headers:
        headers = [("Date", _date(int(time.time()))), ("X-Content-Type-Options", "nosniff"), *answer.headers]
        if answer.rest is None or answer.length is not None:
            size = len(answer.body) if answer.length is None else answer.length
            # RFC 9110: a 204 has none, and that of a 304 would be the value's.
            if answer.status not in (204, 304):
                headers.append(("Content-Length", str(size)))
        if self._is_over or not (self._is_whole or self._h11.their_state is h11.DONE):
            headers.append(("Connection", "close"))
        return tuple(headers)

    def _head_of(self, answer: Answer) -> bytes | None:
        headers, reason = self._headers_of(answer), HTTPStatus(answer.status).phrase
        return self._h11.send(h11.Response(status_code=answer.status, reason=reason, headers=list(headers)))

    def _data(self, body: bytes) -> bytes | None:
        return self._h11.send(h11.Data(data=body)) if body else None

    async def _send_rest(self, rest: AsyncGenerator[bytes, None], pace: Pace, *, is_endless: bool) -> None:
        async def send() -> None:
            async for part in rest:
                await self._write(pace, self._data(part))

        if not is_endless:
            await send()
            return
        # Else a caller that went away would be noticed at the next event only.
        tasks = {asyncio.create_task(send()), asyncio.create_task(self._gone())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _gone(self) -> None:
        """Wait until the caller ends. What it sends meanwhile is another request, which has to wait."""
        data = await self._reader.read(READ_AT_ONCE)
        self._h11.receive_data(data)
        if data:
            await asyncio.Event().wait()
        raise ConnectionResetError("the caller went away")

    async def _write(self, pace: Pace, *parts: bytes | None) -> None:
        data = b"".join(part for part in parts if part)
        # In slices: a slow caller earns its time with each.
        for start in range(0, len(data), WRITE_AT_ONCE):
            piece = data[start : start + WRITE_AT_ONCE]
            self._writer.write(piece)
            # Nearly always the kernel took all at once.
            if self._writer.transport.get_write_buffer_size() or self._writer.transport.is_closing():
                await pace.wait(self._writer.drain())
            pace.moved(len(piece))

    async def _linger(self) -> None:
        """Take what the caller is still sending: a close at once would make it lose the answer."""
        if self._is_whole or self._h11.their_state in (h11.DONE, h11.CLOSED, h11.MUST_CLOSE):
            return
        # The connection is closed in any case.
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                left = LINGER_BYTES
                while left > 0 and (data := await self._reader.read(READ_AT_ONCE)):
                    left -= len(data)


async def _in_one_piece(body: bytes) -> AsyncGenerator[bytes, None]:
    if body:
        yield body


async def _no_body() -> AsyncGenerator[bytes, None]:
    return
    yield b""


@lru_cache(1)
def _date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def _headers(head: h11.Request) -> dict[str, str]:
    """Raises Refused for too many, for two statements of the body's length, and for another version of HTTP."""
    if head.http_version not in (b"1.1", b"1.0"):
        raise refused(505, "version", "HTTP/1.1 is spoken here")
    # h11 bounds what is incomplete; this came at once.
    if len(head.target) + sum(len(name) + len(value) for name, value in head.headers) > MAX_HEAD:
        raise refused(431, "long_head", f"a head has at most {MAX_HEAD} bytes")
    if len(head.headers) > MAX_HEADERS:
        raise refused(431, "many_headers", f"a request has at most {MAX_HEADERS} headers")
    found: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    # A proxy before us may believe the other one, and take the rest for another caller's request.
    if "transfer-encoding" in found and "content-length" in found:
        raise refused(400, "two_lengths", "send Content-Length or Transfer-Encoding, not both")
    return found


def _length(head: h11.Request) -> int | None:
    names = dict(head.headers)
    return None if b"transfer-encoding" in names else int(names.get(b"content-length", b"0"))
