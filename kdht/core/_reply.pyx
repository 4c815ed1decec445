# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1: from a request that ended here to the reply.

A client believes a reply only from the address that it asked. So there are four routes back:

    the client asked this node             to the client, from the address that it asked
    another node forwarded the request     sealed, to the entry node, which relays it
    forwarded, but the entry address is    to the client, from the entry address
    this node's too (anycast)
    forwarded, with DIRECT                 to the client, from this node, if it can be reached from here

A reply that leaves for a client is byte for byte the one that an entry node makes of a sealed reply: a
cookie, and nothing else of the cluster.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from kdht.core._addresses cimport NO_IP, is_own, reaches
from kdht.core._layout cimport (
    KDHT_CONFIG_COOKIES, KDHT_COOKIE_SLOT_BITS, KDHT_FIRST_ROUTED_OP, KDHT_FLAG_DIRECT, KDHT_FLAG_FORWARDED,
    KDHT_FLAG_REPLY, KDHT_GO_ON, KDHT_HEADER_LEN, KDHT_LAST_ROUTED_OP, KDHT_MAGIC, KDHT_OP_TRACE,
    KDHT_REQUEST_FLAGS,
    KDHT_STATUS_COOKIE_NEEDED, KDHT_STATUS_TOO_LARGE, KDHT_STATUS_UNREACHABLE, KDHT_VERSION, htobe64, htons,
    kdht_config, kdht_header, kdht_outcome, ntohl, ntohs,
)
from kdht.core._message cimport Plan, check_member, seal
from kdht.core._tags cimport cookie_at


cdef uint8_t _refusal(const kdht_config *config, const kdht_header *header, const Request *request,
                      uint32_t length) noexcept nogil:
    """Why a body of `length` bytes may not go to the client: its own limit, or its address is not proven.

    The entry node writes one number: the smaller of the client's limit and, if the address is not proven, the
    length of the request's body. So a forwarded request whose limit equals its own length counts as not
    proven.
    """
    cdef uint16_t takes = ntohs(header.max_reply)
    if not config.flags & KDHT_CONFIG_COOKIES:
        return KDHT_STATUS_TOO_LARGE
    if not header.flags & KDHT_FLAG_FORWARDED:
        return KDHT_STATUS_TOO_LARGE if takes and length > takes else KDHT_STATUS_COOKIE_NEEDED
    return KDHT_STATUS_COOKIE_NEEDED if request.max_reply == ntohs(header.body_len) else KDHT_STATUS_TOO_LARGE


cdef uint32_t write_reply(const kdht_config *config, kdht_header *header, const Request *request,
                          uint8_t status, const uint8_t *body, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil:
    """Turn the request into the reply, in place, and give its length. There is room for KDHT_MAX_DATAGRAM
    bytes.

    `out` has the address to send from (all zero: the usual one) and the address to send to. A `body` longer
    than the client may get is replaced by a status that says why. `body` may not lie within the request.
    """
    cdef bint straight = not header.flags & KDHT_FLAG_FORWARDED
    cdef uint8_t *bytes_at = <uint8_t *>header
    # Source addresses can be forged: no more bytes go to an address without a cookie than it sent.
    if length > request.max_reply:
        status = _refusal(config, header, request, length)
        length = 0
    if straight:
        _send_to(out, request.target_ip, request.target_port, request.source_ip, request.source_port)
    # Anycast: this node has the asked address too, so the client believes it. That saves two datagrams.
    elif header.entry_port == config.port and is_own(config, header.entry_ip):
        straight = True
        _send_to(out, header.entry_ip, header.entry_port, header.client_ip, header.client_port)
    elif header.flags & KDHT_FLAG_DIRECT and reaches(config, header.client_ip):
        straight = True
        _send_to(out, NO_IP, 0, header.client_ip, header.client_port)
    else:
        _send_to(out, NO_IP, 0, header.entry_ip, header.entry_port)
    header.flags = KDHT_FLAG_REPLY | KDHT_FLAG_FORWARDED
    if not 0 < header.hops <= config.hop_limit:
        header.hops = config.hop_limit
    header.status = status
    header.body_len = htons(<uint16_t>length)
    if length:
        memcpy(bytes_at + KDHT_HEADER_LEN, body, length)
    if straight:
        memset(&header.time, 0, KDHT_HEADER_LEN - (<uint8_t *>&header.time - bytes_at))
        header.cookie = htobe64(cookie_at(config, out.target_ip, now >> KDHT_COOKIE_SLOT_BITS))
    else:
        memset(&header.max_reply, 0, KDHT_HEADER_LEN - (<uint8_t *>&header.max_reply - bytes_at))
        seal(config, header, now)
    return KDHT_HEADER_LEN + length


cdef bint is_own_quote(const kdht_config *config, const kdht_header *header, uint32_t length,
                       uint32_t now) noexcept nogil:
    """Whether the header is a member's. Only the header has to be quoted: ICMP may quote 548 bytes only."""
    cdef Plan plan
    cdef kdht_outcome out
    if (length < KDHT_HEADER_LEN or ntohl(header.magic) != KDHT_MAGIC or header.version != KDHT_VERSION
            or not header.flags & KDHT_FLAG_FORWARDED):
        return False
    plan.config, plan.now = config, now
    return check_member(header, &plan, &out) == KDHT_GO_ON


cdef uint32_t write_bounce(const kdht_config *config, kdht_header *header, uint32_t length, uint32_t now,
                           kdht_outcome *out) noexcept nogil:
    """Turn a forwarded request, quoted by an ICMP error, into the reply UNREACHABLE, in place as in
    `write_reply`.

    0 if the quote is not of a client's request, or its tag is wrong: anybody can forge an ICMP error, and
    must not make this node send anything. Only the header has to be quoted. A TRACE gets no reply: its
    silence shows where a node is dead.
    """
    cdef Request request
    if (not is_own_quote(config, header, length, now)
            or header.flags & ~KDHT_REQUEST_FLAGS != KDHT_FLAG_FORWARDED or header.op == KDHT_OP_TRACE
            or not KDHT_FIRST_ROUTED_OP <= header.op <= KDHT_LAST_ROUTED_OP):
        return 0
    memset(&request, 0, sizeof(request))
    return write_reply(config, header, &request, KDHT_STATUS_UNREACHABLE, NULL, 0, now, out)


cdef inline void _send_to(kdht_outcome *out, const uint8_t *source_ip, uint16_t source_port,
                          const uint8_t *target_ip, uint16_t target_port) noexcept nogil:
    memcpy(out.source_ip, source_ip, 16)
    memcpy(out.target_ip, target_ip, 16)
    out.source_port, out.target_port = source_port, target_port
