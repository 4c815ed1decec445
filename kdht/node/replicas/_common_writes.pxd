# cython: language_level=3
"""A coordinator's common writes (see _common_writes.pyx)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kdht.core._layout cimport kdht_contact
from kdht._routing cimport Core
from kdht.datapath.socket._backlog cimport Local
from kdht.node.replicas._common_jobs cimport CommonJob, CommonJobs
from kdht.node.replicas._trips cimport Trips
from kdht.node.replicas._turns cimport Turn

cdef enum:
    MOST_NEAR = 21      # MOST_ASKED, and those that may take their places


cdef class CommonWrite(CommonJob):
    cdef CommonWrites writes
    cdef object record, quorum, answers, handed_over
    cdef object done            # who is told, as in `Writes.write`; None: the client of `data`
    cdef bytes key, wire
    cdef bytes data             # the request
    cdef uint8_t source_ip[16]
    cdef uint8_t target_ip[16]
    cdef uint16_t source_port, target_port, max_reply   # ports: in network order
    cdef kdht_contact near[MOST_NEAR]   # the first `asked_count` are asked
    cdef int near_count
    cdef list trips             # their RoundTrips
    cdef object source          # the own Address, which is asked from
    cdef uint32_t ttl
    cdef double arrived         # Unix seconds
    cdef object place           # of its first alarm, if alarms will be set (Timers)
    cdef int acks
    cdef bint own_version, here, existed, soft

    cdef int waited_for(self, const uint8_t *ip, uint16_t port) noexcept
    cdef int remember(self, const Local *local) except -1
    cdef object request(self)


cdef class PutAnswers:
    cdef Core core
    cdef object counts, late, keep, end_of, open_to_all

    cdef int confirmed(self, Turn turn, CommonWrite write) except -1


cdef class CommonWrites(CommonJobs):
    cdef Core core
    cdef uint8_t own_ips[2][16]
    cdef uint16_t own_ports[2]
    cdef int own_count
    cdef dict sources
    cdef object cluster, calls, clock, recent, counters, holds
    cdef object writes, admission, quorum, ended
    cdef object now_counts      # the Quorum of this turn
    cdef PutAnswers answers     # of this turn's requests
    cdef object known_policy    # the Policy that it follows from,
    cdef int known_others       # with so many other nodes
    cdef int others             # replicas beside this node
    cdef int least              # other nodes that must live
    cdef Trips trips
    cdef object took            # Histogram.observe of STOREs
    cdef double latest_at       # the turn's time, for
    cdef uint64_t latest        # the greatest version that an answer may have

    cdef int _add_own(self, own) except -1
    cdef bint is_own(self, const uint8_t *ip, uint16_t port) noexcept
    cdef int _count(self) except -1
    cdef int _begin(self, Turn turn, CommonWrite write) except -1
    cdef bint begin_at(self, Turn turn, const Local *local) except -1
    cdef object _known(self, Turn turn, CommonWrite write, uint64_t version, uint64_t nonce)
    cdef object _record(self, CommonWrite write, uint64_t version, bytes value)
    cdef bint _choose(self, CommonWrite write) except -1
    cdef int _ask(self, Turn turn, CommonWrite write) except -1
    cdef bytes _seal(self, CommonWrite write, uint32_t now)
    cdef bint answered(self, Turn turn, const Local *local) except -1
    cdef int stored(self, Turn turn, CommonWrite write, outcome) except -1
    cdef int _settle(self, Turn turn, CommonWrite write) except -1
    cdef object _done_of(self, CommonWrite write)
