"""Values of up to 64 MiB: cut into chunks, each a record of its own, and a manifest under the user's key.

Readers see what the manifest says, all of it or nothing: it is written after the last chunk, and the chunks are
checked against its digest. Every chunk without an expiry is named by the key's journal, from before it
is written until after it is deleted: so what a killed client, a replacement or a plain PUT leaves behind is
found, and deleted by the next `put` or `delete` here (docs/design.md, "Large values").
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, TypeAlias

from kdht._shared import Status
from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.client._calls import Answer, Call, Key
from kdht.client._manifest import (
    CHUNK_SIZE,
    MAX_LARGE,
    MAX_UPLOADS,
    Manifest,
    Upload,
    chunk_name,
    cut,
    data_in,
    digest_of,
    journal_name,
    pack_journal,
    parse_journal,
)
from kdht.client._steps import Many, Steps
from kdht.errors import Conflict, RequestError, ValueTooLarge
from kdht.wire import Buffer, hash_key

Source: TypeAlias = Buffer | BinaryIO
"""Bytes, or a file to read them from."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done so far, and with all of them."""
Changed: TypeAlias = Callable[[list[Upload]], list[Upload]]

ABANDONED = 86400
"""Seconds after which an upload that has not ended is taken for dead."""
OUTLIVES = 3600
"""Seconds that the chunks of a value with a TTL stay longer than its manifest, for those who read then."""
JOURNAL_TRIES = 32
READ_TRIES = 3


_NOTHING_SEEN = frozenset({Status.NOT_FOUND, Status.UNCONFIRMED})


class _Missing(Exception):
    """A chunk that is not there, or not what it should be."""


class _Ended(RequestError):
    """Another client took this upload's name, and chunks, away."""


def no_progress(done: int, total: int) -> None:
    """For those who do not want to know."""


def whole(source: Source) -> Buffer:
    """All bytes of a source; raises ValueTooLarge for more than MAX_LARGE."""
    data = source if isinstance(source, Buffer) else source.read(MAX_LARGE + 1)
    if len(data) > MAX_LARGE:
        raise ValueTooLarge(f"a large value has at most {MAX_LARGE} bytes")
    return data


# --- Writing


def put(key: Key, data: Buffer, ttl: int | None, progress: Progress, now: float, new_id: bytes) -> Steps[int]:
    """Store a large value; the manifest's version. `now` is Unix seconds."""
    calls.check_ttl(ttl)
    hashed = hash_key(key)
    lifetime = min(ttl + OUTLIVES, calls.MAX_TTL) if ttl else None
    expiry = int(now) + lifetime if lifetime else 0
    upload = Upload(new_id, int(now), expiry, chunks=-(-len(data) // CHUNK_SIZE))
    yield from _change_journal(hashed, lambda uploads: _with_another(uploads, upload), now)
    try:
        yield Many(_writes(data, hashed, upload, lifetime), _counted(len(data), progress))
        yield from _change_journal(hashed, lambda uploads: _rewritten(uploads, upload, 0), now)
    except Exception:
        with suppress(RequestError):
            yield from _drop(hashed, [upload], now)
        raise
    manifest = Manifest(len(data), CHUNK_SIZE, new_id, digest_of(data))
    version: int = yield from steps.put(key, manifest.pack(), ttl, None)
    try:
        named = yield from _change_journal(hashed, lambda uploads: _rewritten(uploads, upload, version), now)
        yield from _drop(hashed, [each for each in named if _is_over(each, named, now)], now)
    except _Ended:
        with suppress(RequestError):
            yield from steps.delete(key, version)
            yield from _drop(hashed, [upload], now)
        raise
    except RequestError:
        # What was not done here is named, and the next one does it.
        pass
    return version


def delete(key: Key, now: float) -> Steps[bool]:
    """Delete a value, large or not, and its chunks; whether there was one. Ends uploads under way."""
    hashed = hash_key(key)
    uploads, _ = yield from _journal(hashed, quorum=False)
    existed: bool = yield from steps.delete(key, None)
    with suppress(RequestError):
        yield from _drop(hashed, uploads, now)
    return existed


def _writes(data: Buffer, key: bytes, upload: Upload, ttl: int | None) -> Iterator[Call]:
    for number, chunk in enumerate(cut(data, key, upload.id)):
        yield calls.put(chunk_name(upload.id, number), chunk, ttl)._replace(tag=number)


def _counted(total: int, progress: Progress) -> Callable[[Call, Answer], None]:
    done = 0

    def stored(call: Call, answer: Answer) -> None:
        nonlocal done
        done = min(done + CHUNK_SIZE, total)
        progress(done, total)

    progress(0, total)
    return stored


# --- Reading


def get(key: Key, progress: Progress) -> Steps[bytes]:
    """A value, large or not, whole and checked."""
    record = calls.record((yield calls.get(key)))
    for _ in range(READ_TRIES):
        manifest = Manifest.parse(record.value)
        if manifest is None:
            return record.value
        try:
            return (yield from _assemble(hash_key(key), manifest, progress))
        except _Missing as missing:
            # Replaced meanwhile, most likely: then another manifest stands.
            version, why = record.version, missing
            record = calls.record((yield calls.get(key, quorum=True)))
            if record.version == version:
                break
    raise RequestError(f"get {key!r}: the large value cannot be read: {why}")


def _assemble(key: bytes, manifest: Manifest, progress: Progress) -> Steps[bytes]:
    size, chunk_size = manifest.size, manifest.chunk_size
    value = bytearray(size)
    done = 0

    def take(call: Call, answer: Answer) -> None:
        nonlocal done
        start = call.tag * chunk_size
        expected = min(chunk_size, size - start)
        if answer.status is not Status.OK:
            raise _Missing(f"chunk {call.tag} of {manifest.chunks} is not there")
        data = data_in(calls.record(answer).value, key, manifest.upload, expected)
        if data is None:
            raise _Missing(f"chunk {call.tag} of {manifest.chunks} is another's")
        value[start : start + expected] = data
        done += expected
        progress(done, size)

    progress(0, size)
    names = (chunk_name(manifest.upload, number) for number in range(manifest.chunks))
    yield Many(
        (calls.get(name)._replace(tag=n, accepts=calls.NOT_FOUND) for n, name in enumerate(names)), take
    )
    if digest_of(value) != manifest.digest:
        raise _Missing("its digest is another")
    return bytes(value)


# --- The journal


def _is_over(upload: Upload, uploads: list[Upload], now: float) -> bool:
    """Whether its chunks may go: a newer value was written, and nobody works on this one any more."""
    if upload.version:
        return upload.version < max(each.version for each in uploads)
    return now - upload.started > ABANDONED


def _with_another(uploads: list[Upload], upload: Upload) -> list[Upload]:
    if len(uploads) == MAX_UPLOADS:
        raise RequestError(f"{MAX_UPLOADS} uploads of this key were begun and not ended: delete it first")
    return [*uploads, upload]


def _rewritten(uploads: list[Upload], upload: Upload, version: int) -> list[Upload]:
    """With the version of its manifest, 0 before that is written: the write itself shows that it is named."""
    if upload not in uploads:
        raise _Ended("the upload was ended by a delete, or took longer than a day")
    return [each._replace(version=version) if each == upload else each for each in uploads]


def _journal(key: bytes, *, quorum: bool) -> Steps[tuple[list[Upload], int]]:
    """What is named, and the version to change it by; a journal that is not there names nothing.

    Without a quorum it may be an older one, or seem not to be there: a change by its version then fails.
    """
    call = calls.get(journal_name(key), quorum=quorum)
    answer = yield call._replace(accepts=calls.NOT_FOUND if quorum else _NOTHING_SEEN)
    if answer.status is not Status.OK:
        return [], 0
    record = calls.record(answer)
    return parse_journal(record.value), record.version


def _change_journal(key: bytes, change: Changed, now: float) -> Steps[list[Upload]]:
    """Read, change and write it, again if another client came between; what it names then."""
    name = journal_name(key)
    for number in range(JOURNAL_TRIES):
        before, version = yield from _journal(key, quorum=number > 0)
        uploads = change([each for each in before if not each.expiry or each.expiry > now])
        lifetimes = [max(each.expiry - int(now), 1) if each.expiry else 0 for each in uploads]
        try:
            if uploads:
                ttl = max(lifetimes) if all(lifetimes) else None
                yield from steps.put(name, pack_journal(uploads), ttl, version)
            elif version:
                yield from steps.delete(name, version)
            return uploads
        except Conflict:
            continue
    raise RequestError("too many clients write this key at once")


def _drop(key: bytes, uploads: list[Upload], now: float) -> Steps[None]:
    """Delete their chunks, then their names."""
    if uploads:
        chunks = (chunk_name(each.id, number) for each in uploads for number in range(each.chunks))
        yield Many(map(calls.delete, chunks), lambda call, answer: None)
        gone = {upload.id for upload in uploads}
        yield from _change_journal(key, lambda named: [each for each in named if each.id not in gone], now)
