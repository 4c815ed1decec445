"""The writer's thread in plain Python: tests hold the one in Cython against it."""

import logging
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from kdht.errors import StorageDamaged, StorageError
from kdht.storage._change import check
from kdht.storage.base import OnChange, Outcome, Store, Wish
from kdht.storage.writer import MAX_GROUP, MAX_WAITING, Done, WriterStats
from kdht.times import UnixTime

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    writes: Sequence[Wish]
    now: UnixTime
    done: Done


class PlainGroupWriter:
    """The thread that writes to `store`; it starts at once. Jobs are confirmed in order.

    All writes of a job go into one batch. A batch takes jobs until it has `max_group` writes. The thread calls
    `on_change` for each record that a write changed, before it confirms the write.
    """

    def __init__(
        self, store: Store, on_change: OnChange, *, max_group: int = MAX_GROUP, max_waiting: int = MAX_WAITING
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._max_group = max_group
        self._max_waiting = max_waiting
        # A SimpleQueue wakes the writer with one system call and no Python. A Condition takes a new lock, two
        # wake-ups and a page of Python for each wait, and most groups of a cluster are a single write.
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._first: _Job | None = None
        """The job that did not fit into the last group. Only the writer's thread uses it."""
        self._waiting = 0
        self._groups = self._written = self._refused = self._failed = 0
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kdht-writer", daemon=True)
        self._thread.start()

    def submit(self, writes: Sequence[Wish], now: UnixTime, done: Done) -> bool:
        """As Writer.submit. `done` runs on the writer's thread. Thread-safe."""
        # On the caller's thread: a malformed write must not fail the group.
        check(writes)
        with self._lock:
            # Bounded: BUSY now is better for a client than an answer after its time-out.
            if self._closing or self._waiting + len(writes) > self._max_waiting:
                self._refused += len(writes)
                return False
            self._waiting += len(writes)
            self._jobs.put(_Job(writes, now, done))
        return True

    def stats(self) -> WriterStats:
        with self._lock:
            return WriterStats(self._waiting, self._groups, self._written, self._refused, self._failed)

    def close(self) -> None:
        """Refuse new jobs, finish the waiting ones, end the thread. The store stays open."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            try:
                self._write(group)
            except StorageDamaged:
                # One unreadable record must not fail those that are grouped with it.
                for job in group:
                    self._write_alone(job)
            except StorageError as error:
                self._fail(group, error)
            except Exception as error:
                # Without this thread every later write would wait for ever.
                log.exception("a group of writes failed")
                self._fail(group, StorageError(f"an error inside the store: {error}"))

    def _next_group(self) -> list[_Job]:
        """The next jobs. Blocks until there is one; empty when closed and drained."""
        group: list[_Job] = []
        size = 0
        job = self._first or self._jobs.get()
        self._first = None
        while job is not None:
            # Bounded too, so no write waits for a very long sync.
            if group and size + len(job.writes) > self._max_group:
                self._first = job
                break
            group.append(job)
            size += len(job.writes)
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
        else:
            if group:
                self._jobs.put(None)  # this None ends the thread: keep it for the next call
        with self._lock:
            self._waiting -= size
        return group

    def _write(self, group: list[_Job]) -> None:
        # With the time of the last job: it is the latest, and an expiry is judged once for the group.
        writes = [write for job in group for write in job.writes]
        results: list[Outcome | StorageError] = [*self._store.apply(writes, group[-1].now, self._on_change)]
        with self._lock:
            self._groups += 1
            self._written += len(writes)
        start = 0
        for job in group:
            _tell(job, results[start : start + len(job.writes)])
            start += len(job.writes)

    def _write_alone(self, job: _Job) -> None:
        """Each write of the job by itself: those of one job are of many clients."""
        # A sync for each. It is rare, and the only way to find the one write that meets the damaged record.
        outcomes = [self._one(write, job.now) for write in job.writes]
        if len(outcomes) == 1 and isinstance(outcomes[0], StorageError):
            self._fail([job], outcomes[0])
            return
        failed = sum(isinstance(outcome, StorageError) for outcome in outcomes)
        with self._lock:
            self._groups += failed < len(outcomes)
            self._failed += failed
            self._written += len(outcomes) - failed
        _tell(job, outcomes)

    def _one(self, write: Wish, now: UnixTime) -> Outcome | StorageError:
        try:
            (outcome,) = self._store.apply((write,), now, self._on_change)
        except Exception as error:
            return error if isinstance(error, StorageError) else StorageError(str(error))
        return outcome

    def _fail(self, group: list[_Job], error: StorageError) -> None:
        with self._lock:
            self._failed += sum(len(job.writes) for job in group)
        for job in group:
            _tell(job, error)


def _tell(job: _Job, outcome: list[Outcome | StorageError] | StorageError) -> None:
    try:
        job.done(outcome)
    except Exception:
        log.exception("the callback of a write failed")
