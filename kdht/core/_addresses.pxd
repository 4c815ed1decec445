# cython: language_level=3
"""Addresses as the wire has them: 16 bytes, IPv6 or IPv4-mapped (RFC 4291, section 2.5.5.2)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from kdht.core._layout cimport kdht_config, ntohl

cdef extern from *:
    """
    static const unsigned char kdht_mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    static const unsigned char kdht_no_ip[16] = {0};
    """
    const uint8_t *MAPPED "kdht_mapped"
    const uint8_t *NO_IP "kdht_no_ip"


cdef inline bint is_ipv4(const uint8_t *ip) noexcept nogil:
    return memcmp(ip, MAPPED, 12) == 0


cdef inline bint is_zero(const uint8_t *ip) noexcept nogil:
    return memcmp(ip, NO_IP, 16) == 0


cdef inline bint is_loopback(const uint8_t *ip) noexcept nogil:
    if is_ipv4(ip):
        return ip[12] == 127
    return memcmp(ip, NO_IP, 15) == 0 and ip[15] == 1


cdef inline bint is_link_local(const uint8_t *ip) noexcept nogil:
    """Whether the address means a host of one link only (RFC 3927, RFC 4291 2.5.6)."""
    if is_ipv4(ip):
        return ip[12] == 169 and ip[13] == 254
    return ip[0] == 0xfe and ip[1] & 0xc0 == 0x80


cdef inline bint is_unicast(const uint8_t *ip) noexcept nogil:
    """Whether one host can have the address: no multicast, no broadcast, not "any"."""
    if is_ipv4(ip):
        return 0 < ip[12] < 224 or (240 <= ip[12] and ntohl((<const uint32_t *>(ip + 12))[0]) != 0xffffffffU)
    return ip[0] != 0xff and not is_zero(ip)


cdef inline bint may_be_answered(const uint8_t *ip, uint16_t port) noexcept nogil:
    """Whether a reply may go there."""
    return port != 0 and is_unicast(ip)


cdef inline bint is_own(const kdht_config *config, const uint8_t *ip) noexcept nogil:
    cdef int i
    for i in range(config.own_count):
        if memcmp(&config.own[i][0], ip, 16) == 0:
            return True
    return False


cdef inline bint is_martian(const kdht_config *config, const uint8_t *ip, bint inside) noexcept nogil:
    """Whether nothing can come from this address (RFC 1812, section 5.3.7).

    Only a sender on this host (`inside`) has a loopback address or an own one. From outside they are forged,
    and the answer would go to a program on this host, past its firewall.
    """
    if not is_unicast(ip):
        return True
    return not inside and (is_loopback(ip) or is_own(config, ip))


cdef inline bint _leads_to(const uint8_t *source, const uint8_t *target) noexcept nogil:
    return (not is_zero(source) and not is_link_local(target)
            and is_loopback(source) == is_loopback(target))


cdef inline bint reaches(const kdht_config *config, const uint8_t *client_ip) noexcept nogil:
    """Whether this node may answer a client that asked another node.

    It needs an address of the client's IP version to send from. And the client's address must mean the same
    host here as at the entry node. A link-local address never does; a loopback one only for a node that sends
    from loopback too.
    """
    if is_ipv4(client_ip):
        return _leads_to(config.source4, client_ip)
    return _leads_to(config.source6, client_ip)
