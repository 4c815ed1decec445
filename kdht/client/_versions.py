"""The versions of the keys of a client's reads and writes: so its reads do not go back in time.

A read may end at a replica that lags behind, even at the owner after it was away. With a newer version in mind the client
then asks the next replica (`_reads`). No I/O and no clock.
"""

from math import inf
from typing import NamedTuple

from kdht.client._calls import Answer
from kdht.wire import RECORD
from kdht.wire import _shared as shared
from kdht.wire._shared import Status
from kdht.wire.certified import CERTIFIED

REMEMBERED = 16384
"""Keys: the ones used last."""


class Known(NamedTuple):
    """The newest version that was seen of a key, and from when on its record may have expired."""

    version: int
    gone_from: float


_NOTHING = Known(0, -inf)


class Versions:
    """Of each key, by its 20-byte hash. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def known(self, key: bytes) -> int:
        """The newest version that was seen; 0 for none."""
        return self._known.get(key, _NOTHING).version

    def take(self, key: bytes, answer: Answer, now: float) -> bool:
        """Learn from a read's answer, OK or NOT_FOUND. False for an old answer: a newer version was seen before."""
        known = self._known.get(key, _NOTHING)
        if answer.status is Status.NOT_FOUND:
            version = version_in(answer)
            # A self-certified record leaves no tombstone: such a version is that of an expired one, or a lie.
            version = version if version < CERTIFIED else 0
            if version < known.version and (version or now < known.gone_from):
                return False
            self.gone(key, version)
            return True
        return self.stands(key, answer, now)

    def stands(self, key: bytes, answer: Answer, now: float) -> bool:
        """The key has the record in this answer. False if a newer version was seen before."""
        if len(answer.body) < shared.RECORD_LEN:
            return True
        version, ttl, _ = RECORD.unpack_from(answer.body)
        old = self._known.pop(key, None)
        if old is not None and version < old.version:
            self._remember(key, old)
            return False
        self._remember(key, Known(version, now + ttl if ttl else inf))
        return True

    def is_old(self, key: bytes, answer: Answer) -> bool:
        """Whether a newer version was seen than that of the record in this answer."""
        return version_in(answer) < self.known(key)

    def gone(self, key: bytes, version: int) -> None:
        """The key has no record. `version` is the deletion's, or 0 if none is known."""
        old = self._known.pop(key, _NOTHING)
        if version or old.version:
            self._remember(key, Known(version, -inf) if version >= old.version else old)

    def forget(self, key: bytes) -> None:
        """Forget what was seen: no replica has it any more."""
        self._known.pop(key, None)

    def _remember(self, key: bytes, new: Known) -> None:
        """Note it as the last used key."""
        known = self._known
        known[key] = new
        if len(known) > REMEMBERED:
            del known[next(iter(known))]


def version_in(answer: Answer) -> int:
    """The version in a record's first field; 0 if the body holds no record."""
    return int.from_bytes(answer.body[:8], "big") if len(answer.body) >= shared.RECORD_LEN else 0
