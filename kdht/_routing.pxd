# cython: language_level=3
"""The C side of the routing core, for the datapaths' batch loops."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "kdht_shared.h" nogil:
    enum:
        KDHT_PASS
        KDHT_LOCAL
        KDHT_FORWARD
        KDHT_RELAY
        KDHT_DROP
    struct kdht_outcome:
        uint8_t verdict
        uint8_t reason
        uint16_t max_reply      # host order
        uint16_t source_port    # network order
        uint16_t target_port    # network order
        uint8_t source_ip[16]
        uint8_t target_ip[16]
        uint8_t next_id[20]

cdef extern from "kdht_region.h" nogil:
    struct kdht_region:
        pass


cdef class Core:
    cdef kdht_region *region
    cdef readonly int fd
    cdef readonly bint writable

# A message (the UDP payload) and the addresses it travelled with; ports in network order.
# FORWARD and RELAY rewrite the header in place and fill `out`; any address family may come out.
# Counts in `lane` (the caller's own, below LANES). Gives the verdict; cannot fail.
cdef int core_decide(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length,
                     const uint8_t *source_ip, uint16_t source_port,
                     const uint8_t *target_ip, uint16_t target_port,
                     uint32_t now, kdht_outcome *out) noexcept nogil

# A whole IPv4 or IPv6 packet, from its IP header on; FORWARD and RELAY rewrite it in place,
# length unchanged. A next hop of the other family is LOCAL (reason FAMILY): the socket's job.
cdef int core_verdict(kdht_region *region, uint32_t lane, uint8_t *packet, uint32_t length,
                      uint32_t now, kdht_outcome *out) noexcept nogil
