# cython: language_level=3
"""Buckets of tokens, one for each sender and kind of request."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "kdht_rate.h" nogil:
    enum:
        KDHT_RATE_KINDS
        KDHT_CROWD_FACTOR
    const uint64_t KDHT_RATE_SECOND
    struct kdht_allowance:
        uint64_t since
        uint64_t budget
    uint32_t kdht_rate_kind_of(uint8_t op)
    uint64_t kdht_rate_depth(uint64_t price)
    int kdht_rate_take(kdht_allowance *held, uint64_t now, uint64_t price)

# What a sender counts by: an IPv4 address, or the /64 of an IPv6 one. As the XDP program has it.
cdef uint64_t network_of(const uint8_t *ip) noexcept nogil

cdef struct Sender:
    uint64_t network
    uint64_t kind
    kdht_allowance held

cdef class SenderRates:
    cdef Sender *senders
    cdef kdht_allowance crowd[3]
    cdef uint64_t prices[3]
    cdef uint64_t seed
    # Whether a sender may send one more request of that kind now (monotonic nanoseconds).
    cdef bint take(self, const uint8_t *ip, uint32_t kind, uint64_t now) noexcept nogil
