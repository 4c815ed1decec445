"""Values of up to 64 MiB: a record for each chunk, and a manifest under the user's key.

Readers see a whole value or none. The manifest is written after the last chunk, and has a digest of them all.

The key's journal names every upload that may have chunks, from before its first one is written until after its
last one is deleted. A killed client, a newer value or a plain PUT may leave chunks behind. The next `put` or
`delete` here finds them by the journal, and deletes them (docs/design/large-values.md).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.client._arguments import Key, hash_of, name_of
from kdht.client._calls import Answer, Call
from kdht.client._journal import Ended, Journal
from kdht.client._manifest import Manifest, Upload, chunk_name, cut, data_in, digest_of
from kdht.client._steps import Many, Steps
from kdht.errors import Conflict, RequestError
from kdht.wire._shared import Status
from kdht.wire.limits import MAX_TTL

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes done so far, and of all bytes."""

# A reader on a slow line may need many minutes for 64 MiB. Until then the chunks must be there.
OUTLIVES = 3600
"""Seconds that chunks with a TTL outlive their manifest, for readers who have just read it."""
# A value that is replaced faster than it can be read would else hold the reader for ever.
READ_TRIES = 3
"""Manifests that a read follows, if their chunks turn out to be replaced."""


WRONG_DIGEST = "its digest does not match"


class Missing(Exception):
    """A chunk is not there, or is not the upload's."""


def no_progress(done: int, total: int) -> None:
    """No-op default."""


# --- Writing


def put(
    key: Key,
    data: bytes,
    ttl: int | None,
    progress: Progress,
    unix_s: float,
    new_id: bytes,
    chunk_size: int,
    if_version: int | None = None,
) -> Steps[int]:
    """Store a large value; returns the manifest's version. `ttl` is in seconds. `unix_s` is the time of day in Unix seconds.

    If it fails or is interrupted before the manifest is sent, it deletes its chunks. Raises ValueError for an
    impossible TTL, Conflict, RequestError if a request fails or another client ended the upload.
    """
    calls.check_ttl(ttl)
    name = name_of(key)
    lifetime = lifetime_of(ttl)
    upload = upload_of(new_id, unix_s, lifetime, chunks=-(-len(data) // chunk_size))
    journal = Journal(name, unix_s)
    chunks = Chunks(name, upload, lifetime, chunk_size)
    # Named before the first chunk is written: a killed client leaves nothing that cannot be found.
    yield from journal.begin(upload)
    try:
        yield Many(chunks.of(data), _counted(len(data), progress, chunk_size))
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
    manifest = Manifest(len(data), chunk_size, new_id, digest_of(data))
    return (yield from publish(name, manifest, upload, journal, ttl, if_version))


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


class Chunks:
    """The writes of an upload's chunks, in their order; `begun` is how many were handed out."""

    def __init__(self, name: Key, upload: Upload, ttl: int | None, chunk_size: int) -> None:
        self.begun = 0
        self._hashed = hash_of(name)
        self._chunk_size = chunk_size
        self._name, self._upload, self._ttl = name, upload, ttl

    def of(self, data: bytes) -> Iterator[Call]:
        """The next ones: of the value's next bytes. All but the last call's data are whole chunks."""
        upload = self._upload
        for chunk in cut(data, self._hashed, upload.id, self._chunk_size):
            number = self.begun
            self.begun += 1
            call = calls.put(chunk_name(upload.id, number), chunk, self._ttl)
            yield call._replace(name=self._name, tag=number, part=f"chunk {number + 1} of {upload.chunks}")


def _counted(total: int, progress: Progress, chunk_size: int) -> Callable[[Call, Answer], None]:
    done = 0

    def stored(call: Call, answer: Answer) -> None:
        nonlocal done
        done = min(done + chunk_size, total)
        progress(done, total)

    progress(0, total)
    return stored


# --- Reading


def get(key: Key, progress: Progress) -> Steps[bytes]:
    """A value, large or not, whole and checked. Raises NotFound, or RequestError if chunks are missing."""
    key = name_of(key)
    record = calls.record((yield calls.get(key)))
    for _ in range(READ_TRIES):
        manifest = Manifest.parse(record.value)
        if manifest is None:
            return record.value
        try:
            return (yield from _assemble(key, manifest, progress))
        except Missing as missing:
            # Most likely the value was replaced meanwhile: then the key has another manifest.
            version, why = record.version, missing
            record = calls.record((yield calls.get(key, quorum=True)))
            # The same manifest from a majority: the chunks are really gone, and another read would not find
            # them.
            if record.version == version:
                break
    raise RequestError(f"get {key!r}: the large value cannot be read: {why}")


def _assemble(key: Key, manifest: Manifest, progress: Progress) -> Steps[bytes]:
    value = yield from chunks_of(key, manifest, range(manifest.chunks), progress)
    if digest_of(value) != manifest.digest:
        raise Missing(WRONG_DIGEST)
    return bytes(value)


def chunks_of(
    key: Key, manifest: Manifest, numbers: range, progress: Progress = no_progress
) -> Steps[bytearray]:
    """The bytes of some chunks in a row, each chunk's header checked. Raises Missing."""
    chunk_size, hashed = manifest.chunk_size, hash_of(key)
    begin, end = numbers.start * chunk_size, min(numbers.stop * chunk_size, manifest.size)
    # Made whole before the first chunk, so that chunks may arrive in any order.
    value = bytearray(end - begin)
    done = 0

    def take(call: Call, answer: Answer) -> None:
        nonlocal done
        start = call.tag * chunk_size
        expected = min(chunk_size, manifest.size - start)
        if answer.status is not Status.OK:
            raise Missing(f"chunk {call.tag} of {manifest.chunks} is not there")
        data = data_in(calls.record(answer).value, hashed, manifest.upload, expected)
        if data is None:
            raise Missing(f"chunk {call.tag} of {manifest.chunks} belongs to another upload")
        value[start - begin : start - begin + expected] = data
        done += expected
        progress(done, len(value))

    progress(0, len(value))
    yield Many((_chunk(key, manifest, number) for number in numbers), take)
    return value


def _chunk(key: Key, manifest: Manifest, number: int) -> Call:
    call = calls.get(chunk_name(manifest.upload, number))._replace(name=key, tag=number)
    return call._replace(accepts=calls.NOT_FOUND, part=f"chunk {number + 1} of {manifest.chunks}")
