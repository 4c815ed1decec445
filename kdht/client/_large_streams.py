"""Writing a value while it arrives: piece by piece, in one record if it turns out to fit. No I/O and no clock.

An operation as in `_steps`, for the asyncio client. It holds one piece in memory, not the value.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from kdht.client import _calls as calls
from kdht.client import _large as large
from kdht.client import _steps as steps
from kdht.client._arguments import Key, name_of
from kdht.client._journal import Journal
from kdht.client._manifest import DIGEST_LEN, MAX_LARGE, Manifest, Upload
from kdht.client._steps import AsyncSteps, Many, Steps, Wait
from kdht.errors import RequestError, ValueTooLarge

Take: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Gives the next bytes, so many of them; fewer only at the end."""

# Four windows of requests: the pause between two pieces costs little, and a server with a hundred uploads holds 25 MiB.
PIECE_CHUNKS = 256
"""Chunks that are read or written at once."""


class NewUpload(NamedTuple):
    """How an upload begins. `unix_s`: the time of day in Unix seconds."""

    id: bytes
    unix_s: float
    chunk_size: int


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
    lifetime = large.lifetime_of(ttl)
    # The number of chunks is not known yet. Who deletes them looks for those that are there.
    upload = large.upload_of(new.id, new.unix_s, lifetime, chunks=-(-MAX_LARGE // new.chunk_size))
    journal = Journal(name, new.unix_s)
    chunks = large.Chunks(name, upload, lifetime, new.chunk_size)
    yield from journal.begin(upload)
    try:
        size, digest = yield from _put_pieces(chunks, first, partial(take, size_bytes))
        yield from journal.note(upload, 0)
    except GeneratorExit:
        raise  # no more steps can be taken; the journal names what was written
    except BaseException:
        with suppress(RequestError):
            yield from journal.clear(upload._replace(chunks=chunks.begun))
        raise
    manifest = Manifest(size, new.chunk_size, new.id, digest)
    written = upload._replace(chunks=chunks.begun)
    return (yield from large.publish(name, manifest, written, journal, ttl, if_version))


def _put_pieces(
    chunks: large.Chunks, piece: bytes, take: Callable[[], Awaitable[bytes]]
) -> AsyncSteps[tuple[int, bytes]]:
    """Write all chunks; the size in bytes and the digest of the whole."""
    size, digest = 0, blake2b(digest_size=DIGEST_LEN)
    while piece:
        size += len(piece)
        if size > MAX_LARGE:
            raise ValueTooLarge(f"a large value has at most {MAX_LARGE} bytes")
        digest.update(piece)
        yield Many(chunks.of(piece), lambda call, answer: None)
        piece = yield Wait(take)
    return size, digest.digest()


def _put_plain(name: Key, value: bytes, ttl: int | None, if_version: int | None, unix_s: float) -> Steps[int]:
    """Store a value in one record. The chunks of an older large value are deleted."""
    version = yield from steps.put(name, value, ttl, if_version)
    with suppress(RequestError):  # the value is written; a journal names what is left
        journal = Journal(name, unix_s)
        named = yield from journal.named()
        standing = Upload(b"", 0, 0, 0, version)
        yield from journal.drop([each for each in named if journal.is_over(each, [*named, standing])])
    return version
