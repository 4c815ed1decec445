"""Values of up to 1 GiB: a record for each chunk, and a manifest under the user's key.

Readers see a whole value or none. The manifest is written after the last chunk, and has a digest of them all.

The key's journal names every upload that may have chunks, from before its first one is written until after its
last one is deleted. A killed client, a newer value or a plain PUT may leave chunks behind. The next `put` or
`delete` here finds them by the journal, and deletes them (docs/design/large-values.md).
"""

from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple

from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.client._arguments import Key, name_of
from kdht.client._chunks import Assembly, Chunks, Missing, Progress
from kdht.client._journal import Ended, Journal
from kdht.client._manifest import MAX_LARGE, Manifest, Upload
from kdht.client._sources import Given, Target
from kdht.client._steps import Flow, Steps
from kdht.client._transfer import Bulk
from kdht.errors import Conflict, PartMissing, RequestError, ValueTooLarge
from kdht.wire.limits import MAX_TTL

# A reader on a slow line may need many minutes for a large value. Until then the chunks must be there.
OUTLIVES = 3600
"""Seconds that chunks with a TTL outlive their manifest, for readers who have just read it."""
# A value that is replaced faster than it can be read would else hold the reader for ever.
READ_TRIES = 3
"""Manifests that a read follows, if their chunks turn out to be replaced."""


# --- Writing


class NewUpload(NamedTuple):
    """How an upload begins. `unix_s`: the time of day in Unix seconds."""

    id: bytes
    unix_s: float
    chunk_size: int


def put(
    key: Key,
    source: Given,
    ttl: int | None,
    progress: Progress,
    new: NewUpload,
    if_version: int | None = None,
) -> Steps[int]:
    """Store a large value; returns the manifest's version. `ttl` is in seconds.

    If it fails or is interrupted before the manifest is sent, it deletes its chunks. Raises ValueError for an
    impossible TTL, ValueTooLarge, Conflict, RequestError if a request fails or another client ended the upload.
    """
    calls.check_ttl(ttl)
    writing = Writing(key, ttl, new, source.size if source.is_sure else None, progress, source.size or 0)
    chunks = writing.chunks
    yield from writing.begin()
    with_all = Bulk(chunks.of(source.pieces()), chunks.stored)
    return (yield from writing.end(with_all, if_version))


class Writing:
    """One upload from its name in the journal to its manifest. `size`: its bytes, if they are known for sure.

    `total`: what `progress` is told of them.
    """

    def __init__(
        self, key: Key, ttl: int | None, new: NewUpload, size: int | None, progress: Progress, total: int
    ) -> None:
        self.name = name_of(key)
        self._ttl = ttl
        lifetime = lifetime_of(ttl)
        # Without the number, the most that there can be. Who deletes them looks for those that are there.
        most = -(-(MAX_LARGE if size is None else size) // new.chunk_size)
        self._upload = upload_of(new.id, new.unix_s, lifetime, most)
        self._journal = Journal(self.name, new.unix_s)
        self.chunks = Chunks(self.name, self._upload, lifetime, new.chunk_size, total, progress)

    def begin(self) -> Steps[None]:
        """Name it, before its first chunk is written: a killed client leaves nothing that cannot be found."""
        yield from self._journal.begin(self._upload)

    def end(self, writes: Bulk | Flow, if_version: int | None) -> Generator[Any, Any, int]:
        """Write all chunks, then the manifest; returns its version. Deletes its chunks if it fails."""
        journal, upload, chunks = self._journal, self._upload, self.chunks
        try:
            yield writes
            # A deletion, or newer uploads, may have ended this one meanwhile. A manifest now would name chunks that
            # are being deleted.
            yield from journal.note(upload, 0)
        # The client was closed, or the interpreter ends: nothing can be sent any more.
        except GeneratorExit:
            raise  # no more steps can be taken; the journal names what was written
        except BaseException:
            with suppress(RequestError):
                yield from journal.clear(upload._replace(chunks=chunks.begun))
            raise
        # With a digest of the whole: each chunk's header is right even if a chunk of the same upload was altered on
        # a disk.
        written = upload._replace(chunks=chunks.begun)
        return (yield from publish(self.name, chunks.manifest(), written, journal, self._ttl, if_version))


def lifetime_of(ttl: int | None) -> int | None:
    """The TTL of a large value's chunks. They outlive their manifest, so a reader who has just read it still finds them."""
    return min(ttl + OUTLIVES, MAX_TTL) if ttl else None


def upload_of(new_id: bytes, unix_s: float, lifetime: int | None, chunks: int) -> Upload:
    """An upload that begins now; `lifetime`: its chunks' TTL in seconds."""
    return Upload(new_id, int(unix_s), int(unix_s) + lifetime if lifetime else 0, chunks)


def publish(
    name: Key, manifest: Manifest, upload: Upload, journal: Journal, ttl: int | None, if_version: int | None
) -> Steps[int]:
    """Write the manifest of an upload whose chunks are all there; returns its version. Deletes the chunks of older values.

    Raises Conflict, without a trace of the upload, if the condition does not hold; else as `put` does.
    """
    try:
        version: int = yield from steps.put(name, manifest.pack(), ttl, if_version)
    except Conflict:
        # The conflict is what the caller has to know. Chunks that stay end with their TTL, or by the journal.
        with suppress(RequestError):
            yield from journal.clear(upload)
        raise
    try:
        # With the manifest's version every client can tell that older uploads are over.
        named = yield from journal.note(upload, version)
        yield from journal.drop([each for each in named if journal.is_over(each, named)])
    except Ended:
        # The caller learns of `Ended`. A manifest that stays names missing chunks, and readers see that.
        with suppress(RequestError):
            yield from steps.delete(name, version)
            yield from journal.clear(upload)
        raise
    except RequestError:
        # The value is written. The journal names what is left, for the next `put` or `delete`.
        pass
    return version


def delete(key: Key, unix_s: float, if_version: int | None = None) -> Steps[bool]:
    """Delete a value, large or not, and all its chunks; returns whether there was one. Ends uploads under way.

    `unix_s` is the time of day in Unix seconds. Raises Conflict, RequestError if the value cannot be deleted.
    """
    name = name_of(key)
    journal = Journal(name, unix_s)
    # Before the deletion: an upload that begins later is another value.
    uploads = yield from journal.named()
    existed: bool = yield from steps.delete(name, if_version)
    # The value is deleted. Chunks that stay are in the journal, and the next writer removes them.
    with suppress(RequestError):
        yield from journal.drop(uploads)
    return existed


# --- Reading


def get(key: Key, target: Target, most: int, progress: Progress) -> Steps[int]:
    """Give a value, large or not, checked, to `target`; returns its bytes.

    Raises NotFound, ValueTooLarge if it has more than `most` bytes, RequestError if chunks are missing, what the target
    raises.
    """
    key = name_of(key)
    record = calls.record((yield calls.get(key)))
    for _ in range(READ_TRIES):
        manifest = Manifest.parse(record.value)
        size = len(record.value) if manifest is None else manifest.size
        if size > most:
            raise ValueTooLarge(
                f"get {key!r}: the value has {size} bytes, this call takes at most {most}: read it into a file, with into="
            )
        if manifest is None:
            target.write(record.value)
            return size
        try:
            yield from _assemble(key, manifest, target, progress)
            return size
        except Missing as missing:
            # Most likely the value was replaced meanwhile: then the key has another manifest.
            version, why = record.version, missing
            record = calls.record((yield calls.get(key, quorum=True)))
            # The same manifest from a majority: the chunks are really gone, and another read would not find
            # them.
            if record.version == version:
                break
            if not target.restart():
                raise PartMissing(f"get {key!r}: the value was replaced while it was read") from None
    raise RequestError(f"get {key!r}: the large value cannot be read: {why}")


def _assemble(key: Key, manifest: Manifest, target: Target, progress: Progress) -> Steps[None]:
    assembly = Assembly(key, manifest, range(manifest.chunks), target.write, progress, is_whole=True)
    yield Bulk(assembly.calls(), assembly.take, insists=True)
    assembly.finish()


def chunks_of(key: Key, manifest: Manifest, numbers: range) -> Steps[bytearray]:
    """The bytes of some chunks in a row, each chunk's header checked. Raises Missing."""
    value = bytearray()
    assembly = Assembly(key, manifest, numbers, value.extend)
    yield Bulk(assembly.calls(), assembly.take, insists=True)
    assembly.finish()
    return value
