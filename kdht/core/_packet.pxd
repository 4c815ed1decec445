# cython: language_level=3
"""Whole packets. No function here can fail."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kdht.core._layout cimport kdht_config, kdht_outcome, udphdr

cdef struct Packet:
    # The parts of a packet, from its IP header on.
    uint8_t *ip
    udphdr *udp
    uint32_t end            # the end of the packet, according to the IP header
    uint8_t source_ip[16]
    uint8_t target_ip[16]
    uint8_t *message
    uint32_t message_len
    uint8_t *addresses      # both of them, in the IP header
    uint32_t addresses_len
    uint32_t changing       # how many bytes of the message are rewritten; a multiple of 4. 0: only `hops`
    uint8_t hops            # as it was
    uint64_t total          # the checksum's sum without the bytes that are rewritten
    bint partial            # the sender left the checksum to the device
    bint unsummed           # IPv4 UDP without a checksum
    int unusual             # the reason to drop it if it turns out to be ours, or KDHT_GO_ON

cdef int packet_parse(const kdht_config *config, uint32_t length, Packet *packet) noexcept nogil
cdef void packet_open(Packet *packet, uint32_t changing) noexcept nogil
cdef void packet_close(Packet *packet, const kdht_outcome *out) noexcept nogil
