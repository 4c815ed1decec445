"""Values as streams, for the asyncio client: `OpenValue` to read one, `Pieces` to cut one that arrives."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from hashlib import blake2b
from typing import TypeAlias

from kdht.client import _large as large
from kdht.client._arguments import Key, data_of
from kdht.client._chunks import PIECE_CHUNKS, WRONG_DIGEST, Missing
from kdht.client._manifest import DIGEST_LEN, Manifest
from kdht.client._steps import Steps
from kdht.errors import PartMissing
from kdht.wire import Record

# One whose last answers are awaited, and one that keeps the cluster busy meanwhile.
READ_AHEAD = 2
"""Pieces that are read at once."""

Run: TypeAlias = Callable[[Steps[bytearray]], Awaitable[bytearray]]
"""Carries out an operation."""


class OpenValue:
    """A value as it was when it was opened. Large ones are read as they are asked for.

    Only two pieces of 256 KiB are read ahead, so who reads slowly holds little memory.
    """

    def __init__(self, key: Key, record: Record, manifest: Manifest | None, run: Run) -> None:
        self.version = record.version
        self.ttl = record.ttl
        """Seconds left when it was opened; 0: it has none."""
        self.size = len(record.value) if manifest is None else manifest.size
        """In bytes."""
        self._key, self._value, self._manifest, self._run = key, record.value, manifest, run

    @property
    def is_large(self) -> bool:
        """Whether reading it needs more requests."""
        return self._manifest is not None

    async def parts(self, begin: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `begin` up to `end`, in parts of any size. Close the generator if you do not read all.

        Who reads the whole value gets its last part only after the digest of all was checked. Raises PartMissing if the
        value was replaced meanwhile or is damaged; else as `get` does.
        """
        end = self.size if end is None else min(end, self.size)
        if self._manifest is None:
            if begin < end:
                yield self._value[begin:end]
            return
        digest = blake2b(digest_size=DIGEST_LEN) if (begin, end) == (0, self.size) else None
        chunk_size = self._manifest.chunk_size
        wanted = range(begin // chunk_size, -(-end // chunk_size)) if begin < end else range(0)
        starts = wanted[::PIECE_CHUNKS]
        ahead = deque(self._begin(start, wanted.stop) for start in starts[:READ_AHEAD])
        try:
            for number, start in enumerate(starts):
                piece = await ahead[0]
                ahead.popleft()
                is_last = number + 1 == len(starts)
                if number + READ_AHEAD < len(starts):
                    ahead.append(self._begin(starts[number + READ_AHEAD], wanted.stop))
                if digest is not None:
                    digest.update(piece)
                    if is_last and digest.digest() != self._manifest.digest:
                        raise self._missing(WRONG_DIGEST)
                offset = start * chunk_size
                yield bytes(memoryview(piece)[max(begin - offset, 0) : end - offset])
        finally:
            for reading in ahead:
                reading.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    def _begin(self, start: int, stop: int) -> "asyncio.Task[bytearray]":
        return asyncio.create_task(self._read(range(start, min(start + PIECE_CHUNKS, stop))))

    async def _read(self, numbers: range) -> bytearray:
        assert self._manifest is not None
        try:
            return await self._run(large.chunks_of(self._key, self._manifest, numbers))
        except Missing as missing:
            raise self._missing(str(missing)) from None

    def _missing(self, why: str) -> PartMissing:
        return PartMissing(f"get {self._key!r}: the large value cannot be read: {why}")


class Pieces:
    """Cuts what arrives, in parts of any size, into pieces as large as they are asked for."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = aiter(source)
        self._left = b""

    async def take(self, size_bytes: int) -> bytes:
        """So many bytes; fewer only at the end. Raises what the source raises, TypeError for parts that are no bytes."""
        parts, length = [self._left], len(self._left)
        while length < size_bytes:
            try:
                part = data_of(await anext(self._source), "a part of a value")
            except StopAsyncIteration:
                break
            parts.append(part)
            length += len(part)
        whole = b"".join(parts)
        self._left = whole[size_bytes:]
        return whole[:size_bytes]
