"""Long reads of the store in slices, so that the thread of the node is never blocked for long.

A job is a generator. It yields the cost of each step, in records read. After `SLICE` records, the node's other duties and
other jobs have their turn. No job holds anything of the store between two steps.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from kdht.errors import StorageError
from kdht.faults import Faults
from kdht.node._timers import Timers
from kdht.times import SteadyTime

T = TypeVar("T")
Steps = Generator[int, None, T]

# About a millisecond of reads: control messages and probes wait no longer than that.
SLICE = 256
PAUSE = 0.001
"""Seconds between slices. With slices of about a millisecond that is half of a processor at most."""
# It confirms no write, and counts for no majority. Two such nodes of three stop all writes, so they must be quick.
PAUSE_BEHIND = 0.0005
"""The same, of a node that has not caught up."""


class Work:
    """Jobs that take turns. `failed` is called with errors of the disk. A job that raises anything else goes to `faults`.

    `is_behind()`: whether this node waits for the jobs to catch up.
    """

    def __init__(
        self,
        timers: Timers,
        failed: Callable[[StorageError], None],
        faults: Faults,
        is_behind: Callable[[], bool],
    ) -> None:
        self._is_behind = is_behind
        self._faults = faults
        self._ends = faults.guard("the end of a job of repair")
        self._timers = timers
        self._failed = failed
        self._jobs: deque[tuple[Steps[Any], Callable[[Any, SteadyTime], None]]] = deque()
        self._runs = False

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, steps: Steps[T], done: Callable[[T | None, SteadyTime], None], now: SteadyTime) -> None:
        """Run the job; `done` gets its result, or None if it failed. A short one runs at once."""
        # At the front: a short job, such as one digest, need not wait for the long ones.
        self._jobs.appendleft((steps, done))
        if not self._runs:
            self._slice(now)

    def _slice(self, now: SteadyTime) -> None:
        self._runs = True
        cost = 0
        while self._jobs and cost < SLICE:
            with self._ends:
                cost += self._step(now)
        # The next slice begins with another job, so a long one does not hold up the others.
        self._jobs.rotate(-1)
        self._runs = bool(self._jobs)
        if self._runs:
            self._timers.at(now + (PAUSE_BEHIND if self._is_behind() else PAUSE), self._slice)

    def _step(self, now: SteadyTime) -> int:
        """One step of the first job, which leaves the queue at its end; the cost."""
        steps, done = self._jobs[0]
        result = None
        try:
            return next(steps)
        except StopIteration as end:
            result = end.value
        except StorageError as error:
            self._failed(error)
        except Exception:
            self._faults.note("a job of repair")
        # Before `done`, which may start other jobs.
        self._jobs.popleft()
        done(result, now)
        return 0
