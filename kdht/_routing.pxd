# cython: language_level=3
"""The C side of the routing core, for the datapaths' batch loops."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from kdht.core._layout cimport (
    KDHT_DROP, KDHT_FORWARD, KDHT_LOCAL, KDHT_PASS, KDHT_RELAY, kdht_contact, kdht_header, kdht_outcome,
    kdht_region,
)
from kdht.core._reply cimport Request


cdef class Core:
    cdef kdht_region *region
    cdef readonly int fd

# The verdict on a message (a UDP payload) with its addresses; ports in network order. Cannot fail.
# FORWARD and RELAY rewrite the header in place and fill `out`. The next hop may be of either IP version.
# `inside`: the sender is on this host, so it may have an own or loopback address.
# Counts in `lane`, which is the caller's own and below LANES.
cdef int core_decide_message(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length,
                             const uint8_t *source_ip, uint16_t source_port,
                             const uint8_t *target_ip, uint16_t target_port,
                             bint inside, uint32_t now, kdht_outcome *out) noexcept nogil

# The same for a whole IPv4 or IPv6 packet, from its IP header on. FORWARD and RELAY rewrite it in place; its
# length stays. It came from outside. A packet cannot change its IP version, so a next hop of the other one is
# LOCAL (FAMILY): the socket datapath forwards it.
cdef int core_decide_packet(kdht_region *region, uint32_t lane, uint8_t *packet, uint32_t length,
                            uint32_t now, kdht_outcome *out) noexcept nogil

# Turn a request whose verdict is LOCAL into its reply, in place. `message` has room for KDHT_MAX_DATAGRAM
# bytes. Gives the length; `out` has the addresses. Ports in network order.
cdef uint32_t core_reply(kdht_region *region, uint32_t lane, uint8_t *message, const Request *request,
                         uint8_t status, const uint8_t *body, uint32_t length, uint32_t now,
                         kdht_outcome *out) noexcept nogil

# The same for threads without a lane of their own.
cdef uint32_t core_answer(kdht_region *region, uint8_t *message, const Request *request, uint8_t status,
                          const uint8_t *body, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil

# Up to `wanted` contacts, closest to the key first, without this node. Gives how many.
cdef int core_closest(kdht_region *region, const uint8_t *key, int wanted, kdht_contact *found) noexcept nogil

# As a kdht.wire.Contact.
cdef object make_contact(const kdht_contact *contact)

# Turn a forwarded request that an ICMP error quotes into the reply UNREACHABLE. 0: nothing may be sent.
cdef uint32_t core_bounce(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil

# Whether an ICMP error quotes the header of a message with a valid tag.
cdef bint core_is_own_quote(kdht_region *region, uint32_t lane, const uint8_t *message, uint32_t length,
                            uint32_t now) noexcept nogil

# Set flag, time, epoch and tags, as Core.seal does. The caller has checked the body length.
cdef void core_seal(kdht_region *region, kdht_header *header, uint32_t now) noexcept nogil
