"""/kv/NAME: values, small and large. GET, HEAD, PUT, DELETE, and a watch with ?watch."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from kdht.client import MAX_LARGE, AsyncClient, OpenValue, large_size
from kdht.errors import Conflict, NotFound, PartMissing
from kdht.faces.http import events
from kdht.faces.http.answers import (
    BYTES,
    NO_STORE,
    REVALIDATE,
    Answer,
    Headers,
    encoded,
    of_json,
    problem,
    refused,
)
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.conditions import Conditions, Part, conditions_of, etag, part_of
from kdht.faces.http.connection import Request
from kdht.faces.http.events import Event
from kdht.faces.http.fields import payload_members, ttl_of
from kdht.faces.http.target import Target
from kdht.wire import Record
from kdht.wire._shared import MAX_VALUE
from kdht.wire.limits import MAX_TTL

PARAMETERS = ("quorum", "watch")
TRANSFER_BYTES = 3 << 19
"""The most that a large value's transfer holds: one piece under way, two read ahead, and the join of them."""
OPEN_TRIES = 3
"""Of a large value that is replaced while it is opened."""
WRITE_TRIES = 8
"""Of a condition that needs a read, while others write the same key."""

T = TypeVar("T")


async def current_version(client: AsyncClient, name: str) -> int:
    """By a majority; 0 for no record."""
    try:
        return (await client.get_record(name, quorum=True)).version
    except NotFound:
        # Version 0 is what a condition says for "no record".
        return 0


async def conditioned(
    client: AsyncClient,
    name: str,
    conditions: Conditions,
    write: Callable[[int | None], Awaitable[T]],
    tries: int,
) -> T:
    """Write if the conditions hold. `write` gets the version that the key must have; None: any. Raises Conflict."""
    if conditions.is_empty:
        return await write(None)
    if conditions.version is not None:
        return await write(conditions.version)
    for left in reversed(range(tries)):
        version = await current_version(client, name)
        check(conditions, name, version)
        try:
            return await write(version)
        except Conflict:
            if not left:
                raise
    raise AssertionError("unreachable")


def check(conditions: Conditions, name: str, version: int) -> None:
    """Raises Conflict unless the conditions hold for this version."""
    if not conditions.holds(version):
        stands = f"the key has version {version}" if version else "the key has no record"
        raise Conflict(f"{name!r}: {stands}", version=version)


class Values:
    """The handlers. `memory` bounds the memory of large transfers."""

    def __init__(self, memory: CallerMemory) -> None:
        self._memory = memory

    async def get(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        if target.flag("watch"):
            return await self._watch(client, request, target)
        conditions = conditions_of(request.headers)
        is_quorum = target.flag("quorum")
        for left in reversed(range(OPEN_TRIES)):
            try:
                opened = await client.open_value(target.name, quorum=is_quorum)
                headers = _headers(opened)
                if conditions.has(opened.version):
                    return Answer(304, headers)
                check(conditions._replace(none_match=None), target.name, opened.version)
                part = part_of(request.headers, opened.version, opened.size)
                return await self._answer(opened, part, headers, is_head=request.method == "HEAD")
            except PartMissing:
                if not left:
                    raise
                is_quorum = True  # it was replaced: a majority knows the newer one
        raise AssertionError("unreachable")

    async def _answer(
        self, opened: OpenValue, part: Part | None, headers: Headers, *, is_head: bool
    ) -> Answer:
        status = 200
        if part is not None:
            status, headers = 206, (*headers, ("Content-Range", part.content_range(opened.size)))
        begin, end = part or (0, opened.size)
        if is_head:
            return Answer(status, headers, length=end - begin)
        if not opened.is_large:
            return Answer(status, headers, b"".join([part async for part in opened.parts(begin, end)]))
        parts = self._parts(opened, begin, end)
        try:
            # Before the head is sent: an error can still be told.
            first = await anext(parts, b"")
        except BaseException:
            await parts.aclose()
            raise
        return Answer(status, headers, first, parts, end - begin)

    async def _parts(self, opened: OpenValue, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        with self._memory.taken(TRANSFER_BYTES):
            async with aclosing(opened.parts(begin, end)) as parts:
                async for part in parts:
                    yield part

    async def put(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        target.only("scope")
        conditions = conditions_of(request.headers)
        ttl = ttl_of(request.headers, MAX_TTL)
        _check_body(request)
        is_small = request.length is not None and request.length <= MAX_VALUE
        if is_small:
            value = b"".join([part async for part in request.body])

            # As a stream, too: callers do not know what is large, and this removes the parts of an older large value.
            async def write_small(version: int | None) -> int:
                return await client.put_stream(target.name, _once(value), ttl, if_version=version)

            version = await conditioned(client, target.name, conditions, write_small, WRITE_TRIES)
        else:
            version = await self._put_large(client, request, target.name, conditions, ttl)
        # The version as text: JavaScript and jq lose digits of large numbers.
        is_new = conditions.version == 0
        return of_json({"version": str(version)}, 201 if is_new else 200, (NO_STORE, ("ETag", etag(version))))

    async def _put_large(
        self, client: AsyncClient, request: Request, name: str, conditions: Conditions, ttl: int | None
    ) -> int:
        if not conditions.is_empty:
            # Before the body is taken: who waits for "100 Continue" need not send it.
            check(conditions, name, await current_version(client, name))

        async def write(version: int | None) -> int:
            return await client.put_stream(name, request.body, ttl, if_version=version)

        with self._memory.taken(TRANSFER_BYTES):
            # Once: the body can be read once only, so a conflict is the answer.
            return await conditioned(client, name, conditions, write, 1)

    async def delete(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        target.only("scope")
        conditions = conditions_of(request.headers)

        async def write(version: int | None) -> bool:
            if version == 0:
                return False  # the condition was that there is none
            return await client.delete_large(target.name, if_version=version)

        existed = await conditioned(client, target.name, conditions, write, WRITE_TRIES)
        return Answer(204) if existed else problem(404, "not_found", f"{target.name!r}: there was no value")

    async def _watch(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        return await events.watch(partial(client.watch, target.name), _event, request, target, self._memory)


def _headers(opened: OpenValue) -> Headers:
    ttl = (("TTL", str(opened.ttl)),) if opened.ttl else ()
    known = (("Content-Type", BYTES), ("ETag", etag(opened.version)), ("Accept-Ranges", "bytes"))
    return (*known, REVALIDATE, *ttl)


def _check_body(request: Request) -> None:
    """Raises Refused for a body that cannot be stored as it is."""
    if request.length is not None and request.length > MAX_LARGE:
        raise refused(413, "too_large", f"a value has at most {MAX_LARGE} bytes", done="no")
    if "content-range" in request.headers:
        raise refused(400, "partial_put", "a value is put as a whole: leave Content-Range out", done="no")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise refused(415, "encoded", "encodings are not kept: leave Content-Encoding out", done="no")


async def _once(value: bytes) -> AsyncIterator[bytes]:
    yield value


def _event(record: Record | None) -> Event:
    if record is None:
        return Event("0", encoded({"exists": False}).rstrip())
    content = {"exists": True, "version": str(record.version), "ttl": record.ttl or None}
    size = large_size(record.value)
    if size is not None:
        # Thousands of records: who wants the value gets it.
        return Event(str(record.version), encoded({**content, "size": size}).rstrip())
    more = payload_members("value", record.value)
    return Event(str(record.version), encoded({**content, "size": len(record.value), **more}).rstrip())
