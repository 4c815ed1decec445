# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1: whole IPv4 and IPv6 packets: find the message, re-address it, update the checksums.

Nothing here knows of routing. `packet_parse` leaves alone what is not for this node and
drops what no member or client sends; the checks and their order are in docs/design/routing.md.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._addresses cimport is_ipv4, is_own
from kdht.core._layout cimport (
    KDHT_GO_ON, KDHT_MAGIC, KDHT_MAX_EXT_HEADERS, KDHT_NEW_TTL, KDHT_REASON_BAD_ADDRESS,
    KDHT_REASON_BAD_CHECKSUM, KDHT_REASON_BAD_IP, KDHT_REASON_EXT_HEADER, KDHT_REASON_FRAGMENT,
    KDHT_REASON_IP_OPTIONS, KDHT_REASON_NOT_OURS, KDHT_REASON_NO_CHECKSUM, htobe64, htons, iphdr,
    kdht_config, kdht_fold, kdht_outcome, kdht_sum, kdht_sum_without, ntohl, ntohs, udphdr,
)

cdef enum:
    UDP = 17
    HOPS = 7  # where the message has its hops


cdef bint _skip_ext_headers(Packet *packet, uint32_t *offset) noexcept nogil:
    """Walk IPv6 extension headers up to UDP. False if there is no UDP header.

    Order and lengths of extension headers: RFC 8200, section 4.
    """
    cdef uint8_t kind = packet.ip[6]
    cdef uint8_t *at
    cdef int i
    # Bounded: a chain of headers is a cheap way to make every node work.
    for i in range(KDHT_MAX_EXT_HEADERS + 1):
        if kind == UDP:
            return True
        if i == KDHT_MAX_EXT_HEADERS or not (kind == 0 or kind == 43 or kind == 44 or kind == 60):
            return False
        at = packet.ip + offset[0]
        if offset[0] + 8 > packet.end:
            packet.unusual = KDHT_REASON_BAD_IP
            return False
        if kind == 44:
            # Not the first fragment, so there is no UDP header in it.
            if (<uint32_t>at[2] << 8 | at[3]) & 0xfff8:
                return False
            packet.unusual = KDHT_REASON_FRAGMENT
            offset[0] += 8
        else:
            if packet.unusual == KDHT_GO_ON:
                packet.unusual = KDHT_REASON_EXT_HEADER
            offset[0] += 8 * (<uint32_t>at[1] + 1)
        kind = at[0]
    return False


cdef inline void _map_ipv4(uint8_t *to, uint32_t address) noexcept nogil:
    """Write the IPv4-mapped address, in the words that the comparisons read: see `_new_ip_check`."""
    cdef uint64_t high = 0, low = htobe64(<uint64_t>0xffff << 32 | ntohl(address))
    memcpy(to, &high, 8)
    memcpy(to + 8, &low, 8)


cdef int _parse_ipv4(const kdht_config *config, uint32_t length, Packet *packet,
                     uint32_t *offset) noexcept nogil:
    """Find where UDP begins. A reason if the packet is not for an own address, or is broken."""
    cdef iphdr *ip = <iphdr *>packet.ip
    if length < 20 or packet.ip[0] & 0x0f < 5:
        return KDHT_REASON_BAD_IP
    # A later fragment has no UDP header, and could be anybody's.
    if ip.protocol != UDP or ntohs(ip.frag_off) & 0x1fff:
        return KDHT_REASON_NOT_OURS
    _map_ipv4(packet.source_ip, ip.saddr)
    _map_ipv4(packet.target_ip, ip.daddr)
    if not is_own(config, packet.target_ip):
        return KDHT_REASON_NOT_OURS
    offset[0] = 4 * <uint32_t>(packet.ip[0] & 0x0f)
    # Frames may be padded. The packet ends where its header says.
    packet.end = ntohs(ip.tot_len)
    if ntohs(ip.frag_off) & 0x2000:
        packet.unusual = KDHT_REASON_FRAGMENT
    elif offset[0] > 20:
        packet.unusual = KDHT_REASON_IP_OPTIONS
    return KDHT_GO_ON


cdef int _parse_ipv6(const kdht_config *config, uint32_t length, Packet *packet,
                     uint32_t *offset) noexcept nogil:
    """The same for IPv6."""
    if length < 40:
        return KDHT_REASON_BAD_IP
    memcpy(packet.source_ip, packet.ip + 8, 16)
    memcpy(packet.target_ip, packet.ip + 24, 16)
    if is_ipv4(packet.target_ip) or not is_own(config, packet.target_ip):
        return KDHT_REASON_NOT_OURS
    offset[0] = 40
    packet.end = 40 + (<uint32_t>packet.ip[4] << 8 | packet.ip[5])
    if packet.end > length:
        return KDHT_REASON_BAD_IP
    if not _skip_ext_headers(packet, offset):
        return KDHT_REASON_BAD_IP if packet.unusual == KDHT_REASON_BAD_IP else KDHT_REASON_NOT_OURS
    return KDHT_GO_ON


cdef int packet_parse(const kdht_config *config, uint32_t length, Packet *packet) noexcept nogil:
    """The reason to pass or drop the packet at once, or KDHT_GO_ON and `packet` filled.

    A packet that is not for this node is passed, whatever its lengths say: it is not ours to judge.
    Fragments, options and extension headers are dropped only when the magic shows that they are for us
    (`unusual`). No kdht sender makes them, since a message fits the smallest MTU of IPv6; they could only
    reach slower code.
    """
    cdef uint32_t offset = 0, magic
    cdef uint8_t version = packet.ip[0] >> 4 if length else 0
    cdef int reason
    packet.unusual = KDHT_GO_ON
    if version == 4:
        reason = _parse_ipv4(config, length, packet, &offset)
    elif version == 6:
        reason = _parse_ipv6(config, length, packet, &offset)
    else:
        return KDHT_REASON_NOT_OURS
    if reason != KDHT_GO_ON:
        return reason
    # After the address: a broken packet for another host is not ours to drop.
    if packet.end > length or offset + sizeof(udphdr) > packet.end:
        return KDHT_REASON_BAD_IP
    packet.udp = <udphdr *>(packet.ip + offset)
    if packet.udp.dest != config.port or offset + sizeof(udphdr) + 4 > packet.end:
        return KDHT_REASON_NOT_OURS
    packet.message = <uint8_t *>packet.udp + sizeof(udphdr)
    memcpy(&magic, packet.message, 4)
    if ntohl(magic) != KDHT_MAGIC:
        return KDHT_REASON_NOT_OURS
    # Only now: without the magic the packet is not for this node to judge.
    if packet.unusual != KDHT_GO_ON:
        return packet.unusual
    # The kernel checks this before the nfqueue datapath sees the packet, but after XDP does.
    if version == 4 and kdht_fold(kdht_sum(packet.ip, 20, 0)) != 0xffff:
        return KDHT_REASON_BAD_CHECKSUM
    if version == 6 and packet.udp.check == 0:
        return KDHT_REASON_NO_CHECKSUM
    if ntohs(packet.udp.len) != packet.end - offset:
        return KDHT_REASON_BAD_IP
    if version == 6 and is_ipv4(packet.source_ip):
        return KDHT_REASON_BAD_ADDRESS  # its reply would go to an IPv4 host, past all filters for IPv4
    packet.message_len = packet.end - offset - sizeof(udphdr)
    return KDHT_GO_ON


cdef uint64_t _pseudo_sum(const Packet *packet) noexcept nogil:
    """The sum of the UDP pseudo-header of the packet as it is now (RFC 768, RFC 8200 8.1)."""
    cdef uint64_t total = <uint64_t>packet.udp.len + htons(UDP)
    if packet.ip[0] >> 4 == 4:
        return kdht_sum(packet.ip + 12, 8, total)
    return kdht_sum(packet.ip + 8, 32, total)


cdef inline uint16_t _new_ip_check(const iphdr *ip, const kdht_outcome *out) noexcept nogil:
    """The header's checksum after `_readdress`; `packet_parse` found the old one right.

    By what changes: a processor waits where it reads words that it has just written in pieces.
    """
    cdef uint64_t total = <uint16_t>~ip.check
    total = kdht_sum_without(&ip.saddr, 4, total)
    total = kdht_sum_without(&ip.daddr, 4, total)
    total = kdht_sum(out.source_ip + 12, 4, total)
    total = kdht_sum(out.target_ip + 12, 4, total)
    # The TTL is the first byte of its word.
    total += <uint16_t>~htons(<uint16_t>ip.ttl << 8) + <uint32_t>htons(KDHT_NEW_TTL << 8)
    return ~kdht_fold(total)


cdef void _readdress(Packet *packet, const kdht_outcome *out) noexcept nogil:
    cdef iphdr *ip = <iphdr *>packet.ip
    cdef uint16_t check
    packet.udp.source = out.source_port
    packet.udp.dest = out.target_port
    if packet.ip[0] >> 4 == 4:
        check = _new_ip_check(ip, out)
        memcpy(&ip.saddr, out.source_ip + 12, 4)
        memcpy(&ip.daddr, out.target_ip + 12, 4)
        ip.check = check
        ip.ttl = KDHT_NEW_TTL  # each leg is a packet of its own; `hops` ends loops
    else:
        memcpy(packet.ip + 8, out.source_ip, 16)
        memcpy(packet.ip + 24, out.target_ip, 16)
        packet.ip[7] = KDHT_NEW_TTL


cdef void packet_open(Packet *packet, uint32_t changing) noexcept nogil:
    """Before the first `changing` bytes of the message are rewritten: take them out of the sum (RFC 1624).

    0: only `hops` will change.

    Packets between namespaces of one host carry the sum of the pseudo-header alone, until a device completes
    it (`partial`). Those get a full checksum in `packet_close`.
    """
    cdef bint ipv4 = packet.ip[0] >> 4 == 4
    packet.addresses = packet.ip + 12 if ipv4 else packet.ip + 8
    packet.addresses_len = 8 if ipv4 else 32
    # For IPv6 a checksum of 0 is an error (RFC 8200, 8.1), and was dropped before.
    packet.unsummed = ipv4 and packet.udp.check == 0
    packet.partial = packet.udp.check == kdht_fold(_pseudo_sum(packet))
    packet.total = <uint16_t>~packet.udp.check
    packet.total = kdht_sum_without(packet.addresses, packet.addresses_len, packet.total)
    packet.total = kdht_sum_without(packet.udp, 4, packet.total)
    packet.changing = changing
    packet.hops = packet.message[HOPS]
    if changing:
        packet.total = kdht_sum_without(packet.message, changing, packet.total)


cdef void packet_close(Packet *packet, const kdht_outcome *out) noexcept nogil:
    """After the header was rewritten: re-address the packet and set the checksums.

    An IPv4 checksum of 0 means "none" and stays 0. A computed 0 is sent as 0xffff (RFC 768).
    """
    cdef uint64_t total = packet.total
    cdef uint16_t check
    _readdress(packet, out)
    if packet.unsummed:
        return
    # A device will complete this sum. An update of it would be a wrong one.
    if packet.partial:
        packet.udp.check = 0
        total = kdht_sum(packet.udp, ntohs(packet.udp.len), _pseudo_sum(packet))
    else:
        total = kdht_sum(packet.addresses, packet.addresses_len, total)
        # The ports from `out`, and `hops` alone: a processor waits where it reads words that it has just
        # written in pieces.
        total += <uint32_t>out.source_port + out.target_port
        if packet.changing:
            total = kdht_sum(packet.message, packet.changing, total)
        else:  # `hops` is the second byte of its word
            total += <uint16_t>~htons(packet.hops) + <uint32_t>htons(packet.message[HOPS])
    check = <uint16_t>~kdht_fold(total)
    packet.udp.check = check if check != 0 else 0xffff
