"""The versions of keys that a client has written, deleted or read, so that its reads do not go back in time.

A read may end at a replica that lags behind, the owner too when it was away. A client that knows a newer
version asks the next one instead; if all say the same, a GET believes them, and a quorum read is
UNCONFIRMED. The last REMEMBERED keys are known; no I/O and no clock.
"""

from math import inf
from typing import NamedTuple

from kdht.client._calls import Answer
from kdht.wire import RECORD
from kdht.wire import _shared as shared
from kdht.wire._shared import Status

REMEMBERED = 16384


class Known(NamedTuple):
    """The newest version that was seen of a key, and from when on it is no wonder that there is none."""

    version: int
    gone_from: float


_NOTHING = Known(0, -inf)


class Versions:
    """What is known of each key (20 bytes). Times are those of the caller's clock."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def known(self, key: bytes) -> int:
        """The newest version that was seen; 0 for none."""
        return self._known.get(key, _NOTHING).version

    def take(self, key: bytes, answer: Answer, now: float) -> bool:
        """Learn from what a read brought, OK or NOT_FOUND; False if something newer was seen."""
        known = self._known.get(key, _NOTHING)
        if answer.status is Status.NOT_FOUND:
            version = version_in(answer)
            if version < known.version and (version or now < known.gone_from):
                return False
            self.gone(key, version)
            return True
        return self.stands(key, answer, now)

    def stands(self, key: bytes, answer: Answer, now: float) -> bool:
        """There is a record, with the version and the TTL in this answer; False if something newer was seen."""
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
        """Whether something newer was seen than the record in this answer."""
        return version_in(answer) < self.known(key)

    def gone(self, key: bytes, version: int) -> None:
        """There is none: it was deleted under that version, if it is not 0."""
        old = self._known.pop(key, _NOTHING)
        if version or old.version:
            self._remember(key, Known(version, -inf) if version >= old.version else old)

    def forget(self, key: bytes) -> None:
        """Nobody has the version that was seen any more."""
        self._known.pop(key, None)

    def _remember(self, key: bytes, new: Known) -> None:
        """It comes last, as what was asked for last."""
        known = self._known
        known[key] = new
        if len(known) > REMEMBERED:
            del known[next(iter(known))]


def version_in(answer: Answer) -> int:
    """The first field of a record; 0 in a body that holds none."""
    return int.from_bytes(answer.body[:8], "big") if len(answer.body) >= shared.RECORD_LEN else 0
