"""The recent writes of a node, so that a late retry gets the answer of the first try.

Contract: bounded in number and time. A write that is forgotten early costs a client an UNCONFIRMED, nothing else. Thread-safe.
"""

from threading import Lock
from typing import Generic, TypeVar

from kdht.storage import StoredRecord
from kdht.times import UnixTime
from kdht.wire._shared import Status

# Longer than a client tries by default, and as long as its version is believed.
SECONDS = 60.0
MOST = 16384
"""Items of one generation; there are two."""

Entry = TypeVar("Entry")
Name = tuple[bytes, int]
"""Key and version, or key and request ID."""


class Generations(Generic[Entry]):
    """A dictionary that forgets. An item stays for SECONDS or longer, unless there are too many."""

    def __init__(self) -> None:
        self._new: dict[Name, Entry] = {}
        self._old: dict[Name, Entry] = {}
        self._begun = UnixTime(0.0)
        self._lock = Lock()

    def get(self, name: Name) -> Entry | None:
        entry = self._new.get(name)
        return self._old.get(name) if entry is None else entry

    def put(self, name: Name, entry: Entry, now: UnixTime) -> None:
        with self._lock:
            # Two dictionaries in place of a time for each entry: forgetting costs one assignment.
            if len(self._new) >= MOST or not 0 <= now - self._begun < SECONDS:
                self._old, self._new = self._new, {}
                self._begun = now
            self._new[name] = entry


class Recent:
    """The recent writes of one node. Only those with a version of their client are remembered."""

    def __init__(self) -> None:
        self._begun: Generations[int] = Generations()
        self._greatest: Generations[int] = Generations()
        self._confirmed: Generations[tuple[int, bool]] = Generations()
        self._deletions: Generations[bool] = Generations()
        self._refusals: Generations[tuple[Status, int]] = Generations()

    def refuse(self, key: bytes, request: int, status: Status, version: int, now: UnixTime) -> None:
        """Note that this request was refused, and changed nothing."""
        self._refusals.put((key, request), (status, version), now)

    def refused(self, key: bytes, request: int) -> tuple[Status, int] | None:
        """The refusal of the request with this ID, if any. A copy of it, doubled by the network, is not carried out either."""
        return self._refusals.get((key, request))

    def claim(self, key: bytes, version: int, write: int, now: UnixTime, *, conditional: bool) -> int:
        """0 if the version belongs to this write (`write` is the number of its tries), else a version to go beyond.

        Another write may have the same version: clients with slow clocks choose the next one above all they have seen.
        Or a greater version has begun here. Then this write would be refused anyway, unless it has a condition to check.
        """
        known = self._begun.get((key, version))
        if known is not None:
            return 0 if known == write else version
        greatest = self._greatest.get((key, 0)) or 0
        # The store would refuse it after a sync of a whole group. Here it costs a look-up.
        if version < greatest and not conditional:
            return greatest
        self._begun.put((key, version), write, now)
        self._greatest.put((key, 0), max(version, greatest), now)
        return 0

    def confirm(self, key: bytes, record: StoredRecord, now: UnixTime, *, existed: bool) -> None:
        """Note that this write was confirmed."""
        self._confirmed.put((key, record.version), (content_of(record), existed), now)

    def confirmed(self, key: bytes, record: StoredRecord, write: int) -> bool | None:
        """Whether the key had a record before this confirmed write; None if it was not confirmed."""
        # Two writes may have one version. Only the one that began here with it may be told of its outcome.
        if self._begun.get((key, record.version)) != write:
            return None
        known = self._confirmed.get((key, record.version))
        return known[1] if known is not None and known[0] == content_of(record) else None

    def deletion(self, key: bytes, version: int, now: UnixTime, *, existed: bool) -> bool:
        """Whether the key had a record when this deletion first came here. `existed`: whether it has one now."""
        known = self._deletions.get((key, version))
        if known is None:
            self._deletions.put((key, version), existed, now)
        return existed if known is None else known


def content_of(record: StoredRecord) -> int:
    """A number for what a record says, whoever wrote it."""
    return hash((record.flags, record.value))
