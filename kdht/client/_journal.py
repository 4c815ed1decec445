"""A large value's journal: the uploads of a key that may have chunks. Changed by compare-and-set.

An upload is named in it from before its first chunk is written until its last one is deleted. A journal has a bounded
size, and never locks its key. If it is full, uploads that are over are dropped, or else the oldest unfinished one.
"""

from collections.abc import Callable
from typing import TypeAlias

from kdht.client import _calls as calls
from kdht.client._arguments import Key, hash_of
from kdht.client._calls import Call
from kdht.client._manifest import MAX_UPLOADS, Upload, chunk_name, journal_name, pack_journal, parse_journal
from kdht.client._steps import Many, Steps
from kdht.errors import Conflict, RequestError, Unconfirmed
from kdht.wire._shared import Status

Changed: TypeAlias = Callable[[list[Upload]], list[Upload]]

ABANDONED = 86400
"""Seconds after which an unfinished upload is taken for dead."""
TRIES = 32
"""Changes of one journal, each after another client changed it first."""
MAX_DOUBTS = 2
"""UNCONFIRMED changes of one journal: each has taken the whole time of a request."""

_NOTHING_SEEN = frozenset({Status.NOT_FOUND, Status.UNCONFIRMED})


class Ended(RequestError):
    """Another client ended this upload, and deleted its chunks."""


class _Full(Exception):
    """The journal has no room. These uploads have to be dropped first."""

    def __init__(self, uploads: list[Upload]) -> None:
        super().__init__()
        self.uploads = uploads


class Journal:
    """The journal of one key. `unix_s` is the time of day in Unix seconds."""

    def __init__(self, key: Key, unix_s: float) -> None:
        self._key = key
        self._name = journal_name(hash_of(key))
        self._unix_s = unix_s

    def named(self) -> Steps[list[Upload]]:
        """The uploads named at present, as far as one replica knows."""
        uploads, _ = yield from self._read(quorum=False)
        return uploads

    def begin(self, upload: Upload) -> Steps[None]:
        """Name one more upload. Raises RequestError if too many clients write the key."""
        for _ in range(TRIES):
            try:
                yield from self._change(lambda uploads: self._with_another(uploads, upload))
            except _Full as full:
                yield from self.drop(full.uploads)
            else:
                return
        raise RequestError(f"put {self._key!r}: too many clients write this key at once")

    def note(self, upload: Upload, version: int) -> Steps[list[Upload]]:
        """Give an upload the version of its manifest, 0 before that is written; returns all named uploads.

        Raises Ended if the upload is no longer named.
        """

        def rewritten(uploads: list[Upload]) -> list[Upload]:
            # Its chunks are being deleted. A manifest now would name missing chunks.
            if all(each.id != upload.id for each in uploads):
                raise Ended(
                    f"put {self._key!r}: the upload was ended by a delete or by newer ones, or took longer than a day"
                )
            return [each._replace(version=version) if each.id == upload.id else each for each in uploads]

        return (yield from self._change(rewritten))

    def is_over(self, upload: Upload, uploads: list[Upload]) -> bool:
        """Whether its chunks may be deleted: a newer value was written, or nobody works on this upload any more."""
        if upload.version:
            return upload.version < max(each.version for each in uploads)
        return self._unix_s - upload.started > ABANDONED

    def drop(self, uploads: list[Upload]) -> Steps[None]:
        """Delete their chunks, then their names."""
        if uploads:
            chunks = ((each, number) for each in uploads for number in range(each.chunks))
            yield Many((self._deletion(*chunk) for chunk in chunks), lambda call, answer: None)
            gone = {upload.id for upload in uploads}
            yield from self._change(lambda named: [each for each in named if each.id not in gone])

    def _deletion(self, upload: Upload, number: int) -> Call:
        call = calls.delete(chunk_name(upload.id, number))
        return call._replace(name=self._key, part=f"chunk {number + 1} of {upload.chunks}")

    def _with_another(self, uploads: list[Upload], upload: Upload) -> list[Upload]:
        if upload in uploads:
            return uploads  # an earlier UNCONFIRMED write was done after all
        if len(uploads) >= MAX_UPLOADS:
            over = [each for each in uploads if self.is_over(each, uploads)]
            # A journal must not lock its key: the oldest unfinished upload gives way.
            raise _Full(over or [min(uploads, key=lambda each: (each.version > 0, each.started))])
        return [*uploads, upload]

    def _read(self, *, quorum: bool) -> Steps[tuple[list[Upload], int]]:
        """The named uploads, and the journal's version for a change; without a journal, none and 0.

        Without a quorum the answer may be an older journal, or none. A change with that version then fails.
        """
        call = self._about(calls.get(self._name, quorum=quorum))
        answer = yield call._replace(accepts=calls.NOT_FOUND if quorum else _NOTHING_SEEN)
        if answer.status is not Status.OK:
            return [], 0
        record = calls.record(answer)
        return parse_journal(record.value), record.version

    def _change(self, change: Changed) -> Steps[list[Upload]]:
        """Read, change and write the journal; again if another client wrote it meanwhile. Returns the named uploads.

        After an UNCONFIRMED write it reads again too: every change recognises itself if it was done.
        """
        unix_s, doubts = self._unix_s, 0
        for number in range(TRIES):
            try:
                # The first read is cheap. If it was too old, the write fails, and a majority is asked.
                before, version = yield from self._read(quorum=number > 0)
            except Unconfirmed:
                if number:
                    raise
                continue  # a replica lags behind: ask a majority
            uploads = change([each for each in before if not each.expiry or each.expiry > unix_s])
            lifetimes = [max(each.expiry - int(unix_s), 1) if each.expiry else 0 for each in uploads]
            try:
                if uploads:
                    ttl = max(lifetimes) if all(lifetimes) else None
                    yield self._about(calls.put(self._name, pack_journal(uploads), ttl, version))
                elif version:
                    yield self._about(calls.delete(self._name, version))
                return uploads
            except Conflict:
                continue
            except Unconfirmed:
                doubts += 1
                if doubts > MAX_DOUBTS:
                    raise
        raise RequestError(f"put {self._key!r}: too many clients write this key at once")

    def _about(self, call: Call) -> Call:
        return call._replace(name=self._key, part="the journal of its uploads")
