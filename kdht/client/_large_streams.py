"""Writing a value while it arrives: piece by piece, in one record if it turns out to fit. No I/O and no clock.

An operation as in `_steps`, for the asyncio client. It holds one piece in memory, not the value.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.client._arguments import Key, name_of
from kdht.client._calls import Call
from kdht.client._chunks import PIECE_CHUNKS, no_progress
from kdht.client._journal import Journal
from kdht.client._large import NewUpload, Writing
from kdht.client._manifest import Upload
from kdht.client._steps import AsyncSteps, Flow, Steps, Wait
from kdht.errors import RequestError

Take: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Gives the next bytes, so many of them; fewer only at the end."""


def put(
    key: Key, take: Take, ttl: int | None, if_version: int | None, new: NewUpload, most_plain: int
) -> AsyncSteps[int]:
    """Store what `take` gives; returns the version. At most `most_plain` bytes go into one record.

    `ttl` is in seconds. Raises as `_large.put` does, ValueTooLarge, and what `take` raises; then nothing stays of it.
    """
    calls.check_ttl(ttl)
    name = name_of(key)
    size_bytes = PIECE_CHUNKS * new.chunk_size
    first = yield Wait(partial(take, size_bytes))
    if len(first) <= most_plain:
        return (yield from _put_plain(name, first, ttl, if_version, new.unix_s))
    writing = Writing(name, ttl, new, None, no_progress, 0)
    yield from writing.begin()

    async def pieces() -> AsyncIterator[Iterable[Call]]:
        piece = first
        while piece:
            yield writing.chunks.of([piece])
            piece = await take(size_bytes)

    return (yield from writing.end(Flow(pieces(), writing.chunks.stored), if_version))


def _put_plain(name: Key, value: bytes, ttl: int | None, if_version: int | None, unix_s: float) -> Steps[int]:
    """Store a value in one record. The chunks of an older large value are deleted."""
    version = yield from steps.put(name, value, ttl, if_version)
    with suppress(RequestError):  # the value is written; a journal names what is left
        journal = Journal(name, unix_s)
        named = yield from journal.named()
        standing = Upload(b"", 0, 0, 0, version)
        yield from journal.drop([each for each in named if journal.is_over(each, [*named, standing])])
    return version
