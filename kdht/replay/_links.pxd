# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Link layers: where IP begins in a captured frame, and what is there in its place.

Contract: bytes are read only below the given length; no exceptions.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86DD

cdef enum:
    # Indexes of SKIPPED in _capture.pyx.
    NOTHING, MPLS, PPPOE, GRE, VXLAN, GENEVE, IP_IN_IP, NOT_IP


cdef inline uint16_t be16(const uint8_t *at) noexcept nogil:
    return <uint16_t>(at[0] << 8 | at[1])


cdef inline uint32_t be32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline int _version(uint32_t kind) noexcept nogil:
    """The IP version that an Ethernet type means, or 0."""
    return 4 if kind == ETHERTYPE_IPV4 else 6 if kind == ETHERTYPE_IPV6 else 0


cdef inline int _behind(
    uint16_t kind, const uint8_t *frame, uint32_t length, uint32_t *skip, uint8_t *what,
) noexcept nogil:
    """The IP version behind an Ethernet type: after VLAN tags, MPLS labels (RFC 3032), PPPoE (RFC 2516)."""
    while kind == 0x8100 or kind == 0x88A8 or kind == 0x9100:
        if length < skip[0] + 4:
            return 0
        kind = be16(frame + skip[0] + 2)
        skip[0] += 4
    if kind == 0x8847 or kind == 0x8848:
        what[0] = MPLS
        while length > skip[0] + 4:
            skip[0] += 4
            if frame[skip[0] - 2] & 1:  # the last label; nothing says what follows
                return frame[skip[0]] >> 4
        return 0
    if kind == 0x8863 or kind == 0x8864:
        what[0] = PPPOE
        if kind == 0x8863 or length < skip[0] + 8:
            return 0
        kind = be16(frame + skip[0] + 6)
        skip[0] += 8
        return 4 if kind == 0x0021 else 6 if kind == 0x0057 else 0
    return _version(kind)


cdef inline int _ethernet(
    const uint8_t *frame, uint32_t length, uint32_t *skip, uint8_t *what,
) noexcept nogil:
    skip[0] = 14
    return _behind(be16(frame + 12), frame, length, skip, what) if length >= 14 else 0


cdef inline int _null(const uint8_t *frame, uint32_t length, uint32_t *skip) noexcept nogil:
    """BSD loopback: an address family, in the byte order of whoever wrote it."""
    cdef uint32_t family
    skip[0] = 4
    if length < 4:
        return 0
    family = be32(frame)
    if family > 0xFFFF:
        family = frame[0] | <uint32_t>frame[1] << 8
    return 4 if family == 2 else 6 if family in (10, 24, 28, 30) else 0


cdef inline int ip_version_behind(
    uint16_t link, const uint8_t *frame, uint32_t length, uint32_t *skip, uint8_t *what,
) noexcept nogil:
    """The IP version behind a link layer (tcpdump.org/linktypes.html), 0: none, -1: only scapy can tell.

    Sets `skip`: the bytes before IP, and `what`: the kind of what is there in place of IP, if it is known.
    """
    if link == 1:
        return _ethernet(frame, length, skip, what)
    if link == 0 or link == 108:
        return _null(frame, length, skip)
    if link == 101 or link == 12 or link == 14 or link == 228 or link == 229:
        skip[0] = 0
        return frame[0] >> 4 if length else 0
    if link == 113:
        skip[0] = 16
        return _behind(be16(frame + 14), frame, length, skip, what) if length >= 16 else 0
    if link == 276:
        skip[0] = 20
        return _behind(be16(frame), frame, length, skip, what) if length >= 20 else 0
    return -1


cdef inline uint8_t tunnel_of(const uint8_t *ip, uint32_t length) noexcept nogil:
    """The kind of tunnel that an IP packet is of, or NOTHING."""
    cdef uint32_t at = 4 * (ip[0] & 15) if ip[0] >> 4 == 4 else 40
    cdef uint8_t protocol
    cdef uint16_t port
    if length < at + 12 or at < 20:
        return NOTHING
    protocol = ip[9] if ip[0] >> 4 == 4 else ip[6]
    if protocol == 47:
        return GRE
    if protocol == 4 or protocol == 41:
        return IP_IN_IP
    if protocol != 17:
        return NOTHING
    port = be16(ip + at + 2)
    # 8472: Linux's own port for VXLAN. The flags tell it from others' messages there, kdht's too (RFC 7348).
    if (port == 4789 or port == 8472) and ip[at + 8] & 0x4B == 0x08:
        return VXLAN
    return GENEVE if port == 6081 and not ip[at + 8] >> 6 else NOTHING
