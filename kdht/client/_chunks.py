"""A large value as a row of records: `Chunks` cuts it while it is written, `Assembly` joins it while it is read.

Both see each byte once, in order, and hold a bounded part of the value. No I/O and no clock.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import TypeAlias

from kdht.client._arguments import Key, hash_of
from kdht.client._calls import NOT_FOUND, Answer, Call
from kdht.client._manifest import DIGEST_LEN, MAX_LARGE, Manifest, Upload, chunk_header, chunk_name, cut
from kdht.errors import ValueTooLarge
from kdht.wire import Buffer, Record, hash_key
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes done so far, and of all bytes; 0 if nobody knows how many there are."""

PIECE_CHUNKS = 256
"""Chunks that are taken from a source, or given to a reader, at once."""
# One that is lost twice takes some tenths of a second. Meanwhile a fast cluster sends so many, 8 MiB.
AHEAD_CHUNKS = 8192
"""How far a reader asks beyond the first chunk that it lacks."""

WRONG_DIGEST = "its digest does not match"


class Missing(Exception):
    """A chunk is not there, or is not the upload's."""


def no_progress(done: int, total: int) -> None:
    """No-op default."""


class Chunks:
    """The writes of an upload's chunks, in their order. `total`: the value's bytes, 0 if nobody knows."""

    def __init__(
        self, name: Key, upload: Upload, ttl: int | None, chunk_size: int, total: int, progress: Progress
    ) -> None:
        self.begun = 0
        """How many were handed out."""
        self.size = 0
        """Their bytes."""
        self._done = 0
        self._digest = blake2b(digest_size=DIGEST_LEN)
        self._hashed = hash_of(name)
        self._chunk_size = chunk_size
        self._name, self._upload = name, upload
        self._head = Record(ttl=ttl or 0).pack()
        self._total, self._progress = total, progress
        # Of what is not known, only the number is said.
        self._of = f" of {upload.chunks}" if total else ""
        progress(0, total)

    def of(self, pieces: Iterable[Buffer]) -> Iterator[Call]:
        """The writes of these pieces. All but the value's last one hold whole chunks. Raises ValueTooLarge."""
        for piece in pieces:
            self.size += memoryview(piece).nbytes
            if self.size > MAX_LARGE:
                raise too_large()
            self._digest.update(piece)
            for chunk in cut(piece, self._hashed, self._upload.id, self._chunk_size):
                number = self.begun
                self.begun += 1
                key = hash_key(chunk_name(self._upload.id, number))
                # As calls.put makes it: what it checks is known of a chunk.
                part = f"chunk {number + 1}{self._of}"
                yield Call(Op.PUT, self._name, key, self._head + chunk, tag=number, part=part)

    def stored(self, call: Call, answer: Answer) -> None:
        """A chunk was stored."""
        self._done = min(self._done + self._chunk_size, self.size)
        self._progress(self._done, self._total)

    def manifest(self) -> Manifest:
        """Of all that was handed out."""
        return Manifest(self.size, self._chunk_size, self._upload.id, self._digest.digest())


class Assembly:
    """Joins some chunks in a row, each chunk's header checked; `sink` gets their bytes, in pieces.

    `is_whole`: they are the whole value. Then the last piece comes after the check of the digest.
    """

    def __init__(
        self,
        key: Key,
        manifest: Manifest,
        numbers: range,
        sink: Callable[[bytearray], object],
        progress: Progress = no_progress,
        *,
        is_whole: bool = False,
    ) -> None:
        self._key, self._manifest, self._numbers = key, manifest, numbers
        self._sink, self._progress = sink, progress
        self._header = chunk_header(hash_of(key), manifest.upload)
        self._digest = blake2b(digest_size=DIGEST_LEN) if is_whole else None
        self._waiting: dict[int, bytes] = {}
        """Those behind one that is not there yet."""
        self._next = numbers.start
        self._ready = bytearray()
        self._done = 0
        chunk_size = manifest.chunk_size
        self._piece_size = PIECE_CHUNKS * chunk_size
        self._total = min(numbers.stop * chunk_size, manifest.size) - numbers.start * chunk_size
        progress(0, self._total)

    def calls(self) -> Iterator[Call | None]:
        """The reads, in their order. None while too many wait for one that was lost."""
        upload, count = self._manifest.upload, self._manifest.chunks
        for number in self._numbers:
            while number - self._next >= AHEAD_CHUNKS:
                yield None
            yield Call(
                Op.GET,
                self._key,
                hash_key(chunk_name(upload, number)),
                max_reply=shared.MAX_BODY,
                accepts=NOT_FOUND,
                hedged=True,
                tag=number,
                part=f"chunk {number + 1} of {count}",
            )

    def take(self, call: Call, answer: Answer) -> None:
        """The answer to one of them. Raises Missing, and what the sink raises."""
        number, count = call.tag, self._manifest.chunks
        if answer.status is not Status.OK:
            raise Missing(f"chunk {number} of {count} is not there")
        expected = min(self._manifest.chunk_size, self._manifest.size - number * self._manifest.chunk_size)
        value, header = answer.body[shared.RECORD_LEN :], self._header
        if len(value) != len(header) + expected or not value.startswith(header):
            raise Missing(f"chunk {number} of {count} belongs to another upload")
        self._waiting[number] = value[len(header) :]
        while (found := self._waiting.pop(self._next, None)) is not None:
            self._ready += found
            self._next += 1
        self._done += expected
        # The last piece waits for the digest.
        if len(self._ready) >= self._piece_size and self._next < self._numbers.stop:
            self._give()
        self._progress(self._done, self._total)

    def finish(self) -> None:
        """All were taken: give the last piece. Raises Missing for a wrong digest."""
        if self._digest is not None:
            self._digest.update(self._ready)
            if self._digest.digest() != self._manifest.digest:
                raise Missing(WRONG_DIGEST)
        self._sink(self._ready)

    def _give(self) -> None:
        if self._digest is not None:
            self._digest.update(self._ready)
        self._sink(self._ready)
        # Another one: the sink may keep what it was given.
        self._ready = bytearray()


def too_large() -> ValueTooLarge:
    return ValueTooLarge(f"a large value has at most {MAX_LARGE} bytes")
