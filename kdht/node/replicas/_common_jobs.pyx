# cython: language_level=3, boundscheck=False, wraparound=False
"""What common reads and writes share: the replicas' time-outs, and when they are handed over.

Contract: whoever calls has a turn. One alarm is set for all jobs: that of the earliest time-out.
"""

from libc.math cimport INFINITY

from kdht.node.replicas._turns cimport Turn


cdef class CommonJob:
    """A request, the replicas that it asks, and when each of these is late."""

    cdef double next_due(self, double deadline) noexcept:
        """When this job is late. `deadline`: seconds from its beginning until its client is told."""
        cdef double first = INFINITY if self.told else self.begun + deadline
        cdef int i
        for i in range(self.asked_count):
            first = min(first, self.due[i])
        return first

    cdef bint waits_for(self, address) except -1:
        """Whether the answer of this address is awaited."""
        raise NotImplementedError


cdef class CommonJobs:
    """Those of one kind at one coordinator."""

    def __cinit__(self, *args, **kwargs):
        self.jobs, self.alarm, self.alarm_at = {}, None, INFINITY

    def __len__(self):
        return len(self.jobs)

    cdef object hand_over(self, Turn turn, CommonJob job):
        """From now on the job is the plain Python's. Gives what that makes of it."""
        raise NotImplementedError

    def release(self, Turn turn, request_id) -> bool:
        """Hand the job with this request over, if it is here: its answer is not the common one."""
        found = self.jobs.get(request_id)
        if found is None:
            return False
        self.hand_over(turn, found)
        return True

    def waits(self, request_id, address) -> bool:
        """Whether the answer of this address to this request is awaited."""
        found = self.jobs.get(request_id)
        return found is not None and (<CommonJob>found).waits_for(address)

    def release_asked(self, Turn turn, address) -> None:
        """Hand over all jobs for which this address is still asked."""
        for found in list(self.jobs.values()):
            if (<CommonJob>found).waits_for(address):
                self.hand_over(turn, found)

    def _ring(self, Turn turn) -> None:
        """Hand over what is late now."""
        cdef double now = turn.steady
        cdef double first = INFINITY, due
        cdef CommonJob job
        self.alarm, self.alarm_at = None, INFINITY
        for found in list(self.jobs.values()):
            job = found
            due = job.next_due(self.deadline)
            if due <= now:
                self.hand_over(turn, job)
            else:
                first = min(first, due)
        if first != INFINITY:
            self.watch(turn, first)

    cdef int watch(self, Turn turn, double due) except -1:
        """Have what is due then handed over."""
        if due >= self.alarm_at:
            return 0
        if self.alarm is not None:
            self.alarm[2] = None
        self.alarm_at = due
        self.alarm = turn.at(due, self._ring)
        return 0
