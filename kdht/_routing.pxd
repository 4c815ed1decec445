# cython: language_level=3
"""The C side of the routing core, for the datapaths' batch loops."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from kdht.core._layout cimport (
    KDHT_DROP, KDHT_FORWARD, KDHT_LOCAL, KDHT_PASS, KDHT_RELAY, kdht_header, kdht_outcome,
    kdht_region,
)
from kdht.core._reply cimport Request


cdef class Core:
    cdef kdht_region *region
    cdef readonly int fd

# A message (the UDP payload) and the addresses it travelled with; ports in network order.
# FORWARD and RELAY rewrite the header in place and fill `out`; any address family may come out.
# Counts in `lane` (the caller's own, below LANES). Gives the verdict; cannot fail.
cdef int core_decide_message(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length,
                             const uint8_t *source_ip, uint16_t source_port,
                             const uint8_t *target_ip, uint16_t target_port,
                             uint32_t now, kdht_outcome *out) noexcept nogil

# A whole IPv4 or IPv6 packet, from its IP header on; FORWARD and RELAY rewrite it in place,
# length unchanged. A next hop of the other family is LOCAL (reason FAMILY): the socket's job.
cdef int core_decide_packet(kdht_region *region, uint32_t lane, uint8_t *packet, uint32_t length,
                            uint32_t now, kdht_outcome *out) noexcept nogil

# The reply to a request whose verdict is LOCAL, made of it in place: `message` has room for KDHT_MAX_DATAGRAM
# bytes. Its length; `out` has the addresses. Ports in network order.
cdef uint32_t core_reply(kdht_region *region, uint32_t lane, uint8_t *message, const Request *request,
                         uint8_t status, const uint8_t *body, uint32_t length, uint32_t now,
                         kdht_outcome *out) noexcept nogil

# The same of what ICMP quotes of a request that was sent on: that it is UNREACHABLE. 0: nothing may be sent.
cdef uint32_t core_bounce(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil

# Make a message this member's own, as Core.seal does: flag, time, epoch and tags. Its body length is right.
cdef void core_seal(kdht_region *region, kdht_header *header, uint32_t now) noexcept nogil
