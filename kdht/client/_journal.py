"""A large value's journal: the uploads of a key that may have chunks. Changed by compare-and-set.

An upload is named in it from before its first chunk is written until its last one is deleted. A journal has a bounded
size, and never locks its key. If it is full, uploads that are over are dropped, or else the oldest unfinished one.

Anybody may have written a journal. So it only says where to look: a chunk is deleted after a look at its header, and
the look ends after many absent chunks in a row. A writer's own upload needs no look.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from kdht.client import _calls as calls
from kdht.client._arguments import Key, hash_of
from kdht.client._calls import Answer, Call
from kdht.client._manifest import (
    MAX_UPLOADS,
    Upload,
    chunk_name,
    is_chunk_of,
    journal_name,
    pack_journal,
    parse_journal,
)
from kdht.client._seal import is_sealed
from kdht.client._steps import Steps
from kdht.client._transfer import Bulk
from kdht.errors import Conflict, RequestError, Unconfirmed
from kdht.wire._shared import Status

Changed: TypeAlias = Callable[[list[Upload]], list[Upload]]

# Nobody uploads one value for a day. Earlier, the client might still be at work, and its chunks would vanish under
# it.
ABANDONED = 86400
"""Seconds after which an unfinished upload is taken for dead."""
# Each change is a compare-and-set, so of several clients one succeeds in each round. Thirty-two clients at one
# key are a mistake.
TRIES = 32
"""Changes of one journal, each after another client changed it first."""
# Anybody can write a journal that names a huge upload. The search for it must stay short.
ABSENT_IN_A_ROW = 512
"""Absent chunks in a row that end the search for an upload's chunks. More than the requests that a writer has under way:
chunks are written in order and deleted in the opposite order, so those that are there come first."""
# Clocks of hosts differ by minutes at most. What is farther ahead is a lie or a broken clock.
MAX_LEAD = 3600
"""Seconds by which another client's version may be ahead of this clock, and still be believed."""
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
            # One far in the future would make every upload to come look old.
            most = (self._unix_s + MAX_LEAD) * 1_000_000
            return any(upload.version < each.version <= most for each in uploads)
        return self._unix_s - upload.started > ABANDONED

    def drop(self, uploads: list[Upload]) -> Steps[None]:
        """Delete the chunks of named uploads, then their names."""
        for upload in uploads:
            # A look at each header first: a planted journal could name another key's chunks.
            found = yield from self._written(upload)
            yield from self._delete(upload, found)
        if uploads:
            yield from self._forget(uploads)

    def clear(self, upload: Upload) -> Steps[None]:
        """Delete all chunks of this client's own upload, those too whose write is still on its way; then its name."""
        # Without a look: these are this client's own, and a write still on its way would not be seen.
        yield from self._delete(upload, range(upload.chunks))
        yield from self._forget([upload])

    def _written(self, upload: Upload) -> Steps[list[int]]:
        """The numbers of an upload's chunks that are there, rising."""
        found: list[int] = []
        hashed, begin, end = hash_of(self._key), 0, min(ABSENT_IN_A_ROW, upload.chunks)

        def look(call: Call, answer: Answer) -> None:
            if answer.status is Status.OK and is_chunk_of(calls.record(answer).value, hashed, upload.id):
                found.append(call.tag)

        while begin < end:
            numbers = range(begin, end)
            yield Bulk((self._chunk(calls.get, upload, number) for number in numbers), look)
            # As many again as were found, so that a long upload is not searched in small steps.
            farther = max(found, default=-1) + 1 + max(ABSENT_IN_A_ROW, len(found))
            begin, end = end, min(farther, upload.chunks)
        return sorted(found)

    def _delete(self, upload: Upload, numbers: Sequence[int]) -> Steps[None]:
        # From the last on: if this ends early, what is left comes first, and is found again.
        deletions = (self._chunk(calls.delete, upload, number) for number in reversed(numbers))
        yield Bulk(deletions, lambda call, answer: None)

    def _forget(self, uploads: list[Upload]) -> Steps[None]:
        gone = {upload.id for upload in uploads}
        yield from self._change(lambda named: [each for each in named if each.id not in gone])

    def _chunk(self, request: Callable[[Key], Call], upload: Upload, number: int) -> Call:
        call = request(chunk_name(upload.id, number))
        part = f"chunk {number + 1} of {upload.chunks}"
        return call._replace(name=self._key, tag=number, part=part, accepts=calls.NOT_FOUND)

    def _with_another(self, uploads: list[Upload], upload: Upload) -> list[Upload]:
        if upload in uploads:
            return uploads  # an earlier UNCONFIRMED write was done after all
        if len(uploads) >= MAX_UPLOADS:
            over = [each for each in uploads if self.is_over(each, uploads)]
            # A journal must not lock its key: the oldest unfinished upload gives way.
            # Finished ones last: their values are what readers get.
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
        # Taken for no journal, its chunks would be left behind.
        if is_sealed(record.value):
            raise RequestError(f"{self._key!r}: the large value is sealed: give the client its key")
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
                # Another client changed the journal meanwhile. Read it again.
                continue
            except Unconfirmed:
                doubts += 1
                if doubts > MAX_DOUBTS:
                    raise
        raise RequestError(f"put {self._key!r}: too many clients write this key at once")

    def _about(self, call: Call) -> Call:
        return call._replace(name=self._key, part="the journal of its uploads")
