"""Whether a client's write may begin: what is known of it already, and whether its version can be.

Contract: it reads the own store, and sends nothing. Thread-safe.
"""

from kdht.errors import StorageError
from kdht.node.replicas._recent import content_of
from kdht.node.replicas.context import CoordinatorContext
from kdht.node.replicas.writes import Written
from kdht.storage import StoredRecord
from kdht.storage.versions import latest_version, micros
from kdht.times import UnixTime
from kdht.wire._shared import TRY_BITS, Status
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_CLOCK_ERROR


class Admission:
    """Of one coordinator."""

    def __init__(self, context: CoordinatorContext) -> None:
        self._context = context

    def known(
        self, key: bytes, record: StoredRecord, nonce: int, now: UnixTime, *, conditional: bool
    ) -> Written | None:
        """What is to be said at once of a write that has its own version."""
        if record.version >= CERTIFIED:
            return self._known_certified(key, record, now, conditional=conditional)
        # The low bits number the datagrams of one write, so all its tries have the same upper ones.
        number = nonce >> TRY_BITS
        # A late try of a confirmed write is OK, even after a newer write.
        existed = self._context.recent.confirmed(key, record, number)
        if existed is not None:
            return Written(Status.OK, record.version, existed)
        # The time first: an impossible version must not be noted as begun.
        told = self._wrong_time(key, record.version, now)
        if told:
            self._context.recent.again(key, record.version, nonce, now)
        else:
            told = self._context.recent.claim(key, record.version, nonce, now, conditional=conditional)
        if not told:
            return None
        self._context.counters["writes_bad_version"] += 1
        return Written(Status.BAD_VERSION, told, existed=False)

    def _known_certified(
        self, key: bytes, record: StoredRecord, now: UnixTime, *, conditional: bool
    ) -> Written | None:
        """The same for a self-certified record. Its content is its write: whoever brings it again does the same write."""
        # A conditional one is judged by a majority, and not by the own store alone.
        told = 0 if conditional else self._in_the_way(key, record, now)
        told = told or self._context.recent.claim(
            key, record.version, content_of(record), now, conditional=conditional
        )
        if not told:
            return None
        self._context.counters["writes_bad_version"] += 1
        return Written(Status.BAD_VERSION, told, existed=False)

    def _in_the_way(self, key: bytes, record: StoredRecord, now: UnixTime) -> int:
        """The version of another record here that is not below this one's; 0: none."""
        try:
            own = self._context.store.get(key, now)
        except StorageError:
            return 0
        # The same content is the same write, also with another expiry: a TTL is counted from each arrival.
        if own is None or own.version < record.version or own[2:] == record[2:]:
            return 0
        return own.version

    def _wrong_time(self, key: bytes, version: int, now: UnixTime) -> int:
        """The time, microseconds, where a client's version is too far from it; 0 where it is not.

        Above what stands it may be: else a key that a fast clock wrote could not be written for a long time.
        """
        time = micros(now)
        if abs(version - time) <= MAX_CLOCK_ERROR:
            return 0
        if time < version <= latest_version(now, self._context.cluster.policy.window):
            try:
                own = self._context.store.get(key, now)
            except StorageError:
                own = None
            if own is not None and version <= own.version + MAX_CLOCK_ERROR:
                return 0
        return time
