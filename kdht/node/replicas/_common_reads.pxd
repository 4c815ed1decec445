# cython: language_level=3
"""A coordinator's common reads (see _common_reads.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from kdht.core._layout cimport kdht_header
from kdht._routing cimport Core
from kdht.node.replicas._common_jobs cimport CommonJob, CommonJobs
from kdht.node.replicas._trips cimport Trips
from kdht.node.replicas._turns cimport Turn
from kdht.storage._reader cimport StoreReader


cdef class CommonRead(CommonJob):
    cdef object request, answers
    cdef bytes key, own         # the own record as another node would send it, or None
    cdef bytes wire
    cdef list asked             # Addresses
    cdef object source          # the own Address, which is asked from
    cdef double arrived         # Unix seconds
    cdef object place           # of its first alarm, if alarms will be set (Timers)
    cdef int heard, need, rank, seats


cdef class ReadAnswers:
    cdef Core core
    cdef object counts, late, end_of

    cdef int found(self, Turn turn, CommonRead read) except -1


cdef class CommonReads(CommonJobs):
    cdef Core core
    cdef frozenset own
    cdef dict sources
    cdef StoreReader reader
    cdef object cluster, calls, clock, counters, reads, need, is_caught_up
    cdef ReadAnswers answers    # of this turn's requests
    cdef int now_need, replicas
    cdef Trips trips
    cdef double latest_at       # the turn's time, for
    cdef uint64_t latest        # the greatest version that an answer may have

    cpdef bint is_ready(self, ReadAnswers answers) except -1
    cdef bint begin_at(self, Turn turn, request) except -1
    cdef bint expects(self, const kdht_header *header) except -1
    cdef bint take_answer(self, Turn turn, datagram) except -1
    cdef bint _look(self, Turn turn, CommonRead read) except -1
    cdef bint _choose(self, CommonRead read) except -1
    cdef int _ask(self, Turn turn, CommonRead read) except -1
    cdef bytes _seal(self, CommonRead read, uint32_t now)
    cdef bint _agrees(self, Turn turn, CommonRead read, bytes data) except -1
