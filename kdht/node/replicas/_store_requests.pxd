# cython: language_level=3
"""A replica's part of writes (see _store_requests.pyx)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kdht.core._layout cimport KDHT_ID_LEN, KDHT_MAX_OWN
from kdht._routing cimport Core
from kdht.datapath.socket._backlog cimport Local

cdef enum:
    MOST_OWN = KDHT_MAX_OWN

# Whom to answer, and about what. Ports and the request ID are in network order.
cdef struct Asked:
    uint64_t request_id
    uint64_t version
    uint32_t flags
    uint16_t source_port
    uint16_t target_port
    uint8_t key[KDHT_ID_LEN]
    uint8_t source_ip[16]
    uint8_t target_ip[16]


cdef class StoreRequests:
    cdef Core core
    cdef uint8_t own_ips[MOST_OWN][16]
    cdef uint16_t own_ports[MOST_OWN]
    cdef int own_count
    cdef object submit, send, clock, counters, deletion, holds

    cdef int _add_own(self, own) except -1
    cdef bint _is_own(self, const uint8_t *ip, uint16_t port) noexcept
    cdef Taken job(self, double now)
    cdef bint add(self, Taken job, const Local *local) except -1
    cdef int begin(self, Taken job) except -1


cdef class Taken:
    cdef StoreRequests stores
    cdef readonly list writes
    cdef Asked *asked
    cdef Py_ssize_t count, room
    cdef double now
    cdef uint64_t newest        # version of a time that the clock follows
    cdef uint64_t followed

    cdef int add(self, const Local *local) except -1
    cdef int tell(self, outcome) except -1
    cdef object _answer(self, const Asked *asked, uint8_t status, uint64_t version)
