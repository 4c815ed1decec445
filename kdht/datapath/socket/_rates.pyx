# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""How many requests each sender may send; no GIL. include/kdht_rate.h has the rule, as the XDP program has
it.

Contract: one thread. The memory is bounded: the sender that was silent longest makes room for a new one, and
all new ones together have one bucket, the crowd's. The place of a sender depends on a random number, so
nobody can choose addresses that push a certain other one out.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

cdef enum:
    SETS_BITS = 12
    WAYS = 4   # senders in a set

cdef const uint8_t *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


cdef uint64_t network_of(const uint8_t *ip) noexcept nogil:
    cdef uint64_t network
    memcpy(&network, ip + 8 if memcmp(ip, MAPPED, 12) == 0 else ip, sizeof(network))
    return network


cdef class SenderRates:
    """`prices`: nanoseconds that a request of each kind takes, 0 for no limit. Without a limit it has no
    memory."""

    def __cinit__(self, prices):
        for i, price in enumerate(prices):
            self.prices[<int>i] = price
        self.seed = int.from_bytes(os.urandom(8)) | 1
        if any(prices):
            self.senders = <Sender *>calloc(WAYS << SETS_BITS, sizeof(Sender))
            if self.senders is NULL:
                raise MemoryError

    def __dealloc__(self):
        free(self.senders)

    cdef bint take(self, const uint8_t *ip, uint32_t kind, uint64_t now) noexcept nogil:
        cdef uint64_t network = network_of(ip), price = self.prices[kind]
        cdef Sender *first
        cdef Sender *oldest
        cdef int i
        if price == 0:
            return True
        # Multiplicative hashing by a secret odd number (Knuth, volume 3, section 6.4).
        first = &self.senders[WAYS * (((network + kind) * self.seed) >> (64 - SETS_BITS))]
        oldest = first
        for i in range(WAYS):
            if first[i].network == network and first[i].kind == kind and first[i].held.since:
                return kdht_rate_take(&first[i].held, now, price)
            if first[i].held.since < oldest.held.since:
                oldest = &first[i]
        # Before a place is taken: a flood of forged sources pushes out nobody beyond the crowd's rate.
        if not kdht_rate_take(&self.crowd[kind], now, price // KDHT_CROWD_FACTOR):
            return False
        oldest.network, oldest.kind = network, kind
        # A full bucket, less this request.
        oldest.held.since, oldest.held.budget = now, kdht_rate_depth(price) - price
        return True
