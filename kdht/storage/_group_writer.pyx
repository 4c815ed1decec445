# cython: language_level=3, boundscheck=False, wraparound=False
"""Grouped writes: all waiting writes go to disk in one synced batch, then they are confirmed.

A disk does some thousand syncs a second, whatever their size. So the next group collects while the last one
is synced. The queue is bounded: when it is full, `submit` refuses and the caller answers BUSY.

The plain Python of the same rules is in tests/helpers/plain_writer.py: the tests try both.

Contract: the GIL guards all fields. No code here gives it away between a look and what follows from it.
"""

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    PyThread_type_lock, WAIT_LOCK,
)

import logging
import threading

from kdht.errors import StorageDamaged, StorageError
from kdht.storage._change import check
from kdht.storage.writer import MAX_GROUP, MAX_WAITING, WriterStats

log = logging.getLogger(__name__)


cdef class Job:
    cdef object writes, now, done
    cdef Py_ssize_t size


cdef class GroupWriter:
    """The thread that writes to `store`; it starts at once. Jobs are confirmed in order.

    All writes of a job go into one batch. A batch takes jobs until it has `max_group` writes. The thread
    calls `on_change` for each record that a write changed, before it confirms the write.
    """

    cdef object store, on_change, thread
    cdef Py_ssize_t max_group, max_waiting, waiting
    cdef Py_ssize_t groups, written, refused, failed
    cdef list jobs              # that wait
    cdef list taken             # that the thread has taken; those from `at` on are still to be written
    cdef Py_ssize_t at
    cdef PyThread_type_lock alarm   # the thread waits for it while there is no job
    cdef bint waits, closing

    def __cinit__(self, store, on_change, *, max_group=MAX_GROUP, max_waiting=MAX_WAITING):
        self.store, self.on_change = store, on_change
        self.max_group, self.max_waiting = max_group, max_waiting
        self.jobs, self.taken = [], []
        self.alarm = PyThread_allocate_lock()
        if self.alarm is NULL:
            raise MemoryError
        PyThread_acquire_lock(self.alarm, WAIT_LOCK)
        self.thread = threading.Thread(target=self._run, name="kdht-writer", daemon=True)
        self.thread.start()

    def __dealloc__(self):
        if self.alarm is not NULL:
            PyThread_free_lock(self.alarm)

    def submit(self, writes, now, done) -> bool:
        """As Writer.submit. `done` runs on the writer's thread. Thread-safe."""
        cdef Job job
        cdef Py_ssize_t size = len(writes)
        # On the caller's thread: a malformed write must not fail the group.
        check(writes)
        # Made before the look: an allocation may collect garbage, and so give the GIL away.
        job = Job.__new__(Job)
        job.writes, job.now, job.done, job.size = writes, now, done, size
        # Bounded: BUSY now is better for a client than an answer after its time-out.
        if self.closing or self.waiting + size > self.max_waiting:
            self.refused += size
            return False
        self.waiting += size
        self.jobs.append(job)
        self._wake()
        return True

    def stats(self):
        return WriterStats(self.waiting, self.groups, self.written, self.refused, self.failed)

    def close(self) -> None:
        """Refuse new jobs, finish the waiting ones, end the thread. The store stays open."""
        self.closing = True
        self._wake()
        self.thread.join()

    cdef int _wake(self) except -1:
        # One release for each wait: the thread cannot look at the queue before it has the GIL.
        if self.waits:
            self.waits = False
            PyThread_release_lock(self.alarm)
        return 0

    def _run(self):
        cdef list group
        while True:
            group = self._next_group()
            if not group:
                return
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

    cdef list _next_group(self):
        """The next jobs. Blocks until there is one; empty when closed and drained."""
        cdef list group = []
        cdef Py_ssize_t size = 0
        cdef Job job
        while True:
            if self.at == len(self.taken):
                self.taken, self.at = self.jobs, 0
                self.jobs = []
            if self.at < len(self.taken):
                job = self.taken[self.at]
                # Bounded too, so no write waits for a very long sync.
                if group and size + job.size > self.max_group:
                    break
                self.at += 1
                size += job.size
                group.append(job)
            elif group or self.closing:
                break
            else:
                self.waits = True
                with nogil:
                    PyThread_acquire_lock(self.alarm, WAIT_LOCK)
        self.waiting -= size
        return group

    cdef int _write(self, list group) except -1:
        cdef list writes, results
        cdef Py_ssize_t start = 0
        cdef Job job = group[0]
        if len(group) == 1:
            writes = list(job.writes)
        else:
            writes = []
            for job in group:
                writes.extend(job.writes)
        # With the time of the last job: it is the latest, and an expiry is judged once for the group.
        results = self.store.apply(writes, job.now, self.on_change)
        self.groups += 1
        self.written += len(writes)
        if len(group) == 1:
            return tell(job, results)
        for job in group:
            tell(job, results[start:start + job.size])
            start += job.size
        return 0

    cdef int _write_alone(self, Job job) except -1:
        """Each write of the job by itself: those of one job are of many clients."""
        # A sync for each. It is rare, and the only way to find the one write that meets the damaged record.
        cdef list outcomes = [self._one(write, job.now) for write in job.writes]
        cdef Py_ssize_t failed = 0
        if len(outcomes) == 1 and isinstance(outcomes[0], StorageError):
            return self._fail([job], outcomes[0])
        for outcome in outcomes:
            failed += isinstance(outcome, StorageError)
        self.groups += failed < len(outcomes)
        self.failed += failed
        self.written += len(outcomes) - failed
        return tell(job, outcomes)

    cdef object _one(self, write, now):
        try:
            (outcome,) = self.store.apply((write,), now, self.on_change)
        except Exception as error:
            return error if isinstance(error, StorageError) else StorageError(str(error))
        return outcome

    cdef int _fail(self, list group, error) except -1:
        cdef Job job
        for job in group:
            self.failed += job.size
        for job in group:
            tell(job, error)
        return 0


cdef int tell(Job job, outcome) except -1:
    try:
        job.done(outcome)
    except Exception:
        log.exception("the callback of a write failed")
    return 0
