# cython: language_level=3
"""What common reads and writes share (see _common_jobs.pyx)."""

from libc.stdint cimport uint64_t

from kdht.node.replicas._turns cimport Turn

cdef enum:
    MOST_ASKED = 15


cdef class CommonJob:
    cdef uint64_t request_id
    cdef double begun           # steady, like all that follow
    cdef double due[MOST_ASKED]  # of each that is asked; INFINITY once it has answered
    cdef int asked_count
    cdef int waiting            # of these have not answered
    cdef bint told

    cdef double next_due(self, double deadline) noexcept
    cdef bint waits_for(self, address) except -1


cdef class CommonJobs:
    cdef readonly dict jobs     # by request ID
    cdef double deadline        # seconds in which the client is told
    cdef object alarm
    cdef double alarm_at

    cdef int watch(self, Turn turn, double due) except -1
    cdef object hand_over(self, Turn turn, CommonJob job)
