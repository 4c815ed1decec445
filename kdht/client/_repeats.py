"""Requests of a transfer that have failed, and are made again. No I/O and no clock.

All requests of a transfer may be made again, whatever became of them: a chunk never changes, a deleted one stays deleted, a
read changes nothing. So one that fails for want of time, room or replicas begins anew after a pause. Others go on
meanwhile. The transfer ends when none of its requests has been answered for the client's time-out.
"""

import heapq
from math import inf
from random import Random
from typing import NamedTuple

from kdht.client._calls import Call
from kdht.errors import RequestTimeout
from kdht.wire._shared import Status

# A restarted daemon is back within a second or two. A full cluster gets few requests: each has many tries.
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
"""Seconds from a failure until the request begins anew. The pause doubles while it fails again."""
JITTER = 0.5
"""The longest random addition to a pause, as a part of it."""
# A chunk that can never be stored ends an upload of 1 GiB after 2 MiB more, not after all of it.
MOST_AHEAD = 2048
"""Requests that are begun after one that fails again and again."""

_PASSING = frozenset(
    status.name
    for status in (
        Status.BAD_VERSION,
        Status.BUSY,
        Status.FULL,
        Status.HOPS_ENDED,
        Status.NOT_RESPONSIBLE,
        Status.STORAGE_FAILED,
        Status.TOO_FEW,
        Status.UNCONFIRMED,
        Status.UNREACHABLE,
    )
)
"""Refusals that end when a node comes back, has room, or has caught up."""


class Asked(NamedTuple):
    """A request of a transfer."""

    call: Call
    failures: int = 0
    number: int = 0
    """Of those that have failed, each has another."""


def may_pass(error: Exception) -> bool:
    """Whether the request may succeed later. A closed port is a node that is being restarted, perhaps."""
    return isinstance(error, RequestTimeout) or getattr(error, "status", None) in _PASSING


class Repeats:
    """Those that wait for their next beginning, and those that have begun again."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._waiting: list[tuple[float, int, Asked]] = []
        """A heap, by the time when it is due."""
        self._limits: dict[int, int] = {}
        """Of all that have failed and are not answered yet, by number: how many may be begun at all until they are."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_due(self) -> float:
        """When the next one is to begin; infinity without one."""
        return self._waiting[0][0] if self._waiting else inf

    def room(self, begun: int) -> int:
        """How many more may be begun, after so many."""
        # The first one failed first, so its limit is the lowest.
        return max(next(iter(self._limits.values())) - begun, 0) if self._limits else MOST_AHEAD

    def failed(self, asked: Asked, begun: int, now: float) -> None:
        """It has failed, while `begun` requests had been begun. It is due after a pause."""
        pause = min(FIRST_PAUSE * 2.0**asked.failures, LAST_PAUSE) * (1 + self._rng.random() * JITTER)
        if not asked.failures:
            self._count += 1
            asked = asked._replace(number=self._count)
            self._limits[asked.number] = begun + MOST_AHEAD
        heapq.heappush(
            self._waiting, (now + pause, asked.number, asked._replace(failures=asked.failures + 1))
        )

    def answered(self, asked: Asked) -> None:
        """It has its answer."""
        self._limits.pop(asked.number, None)

    def take_due(self, now: float) -> list[Asked]:
        """Those to begin now."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        return due
