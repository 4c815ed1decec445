"""The versions of keys that a client has written or read, so that its reads do not go back in time.

A read may end at a replica that lags behind, the owner too when it was away. A client that knows a newer
version asks the next one instead; if all say the same, a GET believes them, and a quorum read is
UNCONFIRMED. The last REMEMBERED keys are known; no I/O and no clock.
"""

from kdht import _shared as shared
from kdht._shared import Op, Status
from kdht.client._calls import Answer, Call

REMEMBERED = 16384

_READS = frozenset({Op.GET, Op.QUORUM_GET})


class Versions:
    """Key (20 bytes) to the greatest version seen."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def is_old(self, call: Call, answer: Answer) -> bool:
        """Whether a newer record than the one in this answer to a read was seen."""
        return (
            call.op in _READS
            and answer.status is Status.OK
            and _version(answer) < self._known.get(call.key, 0)
        )

    def take(self, call: Call, answer: Answer) -> None:
        """Learn from the answer that ended a request."""
        if answer.status is not Status.OK:
            return
        if call.op in _READS or call.op == Op.PUT:
            self._remember(call.key, _version(answer))
        elif call.op == Op.DELETE and call.key in self._known:
            # The tombstone's own version is not told, but it is greater.
            self._remember(call.key, self._known[call.key] + 1)

    def forget(self, key: bytes) -> None:
        """Nobody has the version that was seen any more."""
        self._known.pop(key, None)

    def _remember(self, key: bytes, version: int) -> None:
        known = self._known
        version = max(version, known.pop(key, 0))
        known[key] = version
        if len(known) > REMEMBERED:
            del known[next(iter(known))]


def _version(answer: Answer) -> int:
    """The first field of a record; 0 in a body that holds none."""
    return int.from_bytes(answer.body[:8], "big") if len(answer.body) >= shared.RECORD_LEN else 0
