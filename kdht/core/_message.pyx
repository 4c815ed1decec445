# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1: the verdict on one message.

It has two halves. `plan_message` makes the checks and finds the next hop; it changes nothing. `apply_plan`
rewrites the header of a message that goes on. The order of the checks decides which reason is counted,
so it is the same in the XDP program (bpf/verdict.h) and in the oracle (kdht/replay/oracle.py).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from kdht.core._addresses cimport is_ipv4, is_martian, is_own, is_zero, may_be_answered
from kdht.core._buckets cimport find_next_hop
from kdht.core._layout cimport (
    KDHT_CONFIG_COOKIES, KDHT_CONFIG_PREFIXES, KDHT_CONFIG_READY, KDHT_CONFIG_UNTAGGED,
    KDHT_CONFIG_WRITE_COOKIE, KDHT_COOKIE_SLOT_BITS,
    KDHT_FIRST_CONTROL_OP, KDHT_FIRST_ROUTED_OP, KDHT_FLAG_FORWARDED, KDHT_FLAG_REPLY,
    KDHT_GO_ON, KDHT_HEADER_LEN, KDHT_ID_LEN, KDHT_KNOWN_FLAGS, KDHT_LAST_CONTROL_OP, KDHT_LAST_ROUTED_OP,
    KDHT_IS_WRITE, KDHT_MAGIC, KDHT_MAX_BODY, KDHT_MAX_DATAGRAM, KDHT_MAY_READ, KDHT_MAY_WRITE,
    KDHT_OP_TRACE, KDHT_OP_WATCH, KDHT_REASON_BAD_ADDRESS,
    KDHT_REASON_BAD_BODY_TAG, KDHT_REASON_BAD_EPOCH, KDHT_REASON_BAD_FLAGS, KDHT_REASON_BAD_LENGTH,
    KDHT_REASON_BAD_MAGIC, KDHT_REASON_BAD_OP, KDHT_REASON_BAD_TAG, KDHT_REASON_BAD_VERSION,
    KDHT_REASON_CONTROL, KDHT_REASON_ENTERED, KDHT_REASON_FAMILY, KDHT_REASON_FORGED_ORIGIN,
    KDHT_REASON_HOP_LIMIT, KDHT_REASON_MARTIAN, KDHT_REASON_NEEDS_COOKIE, KDHT_REASON_NEXT_HOP,
    KDHT_REASON_NOT_ALLOWED, KDHT_REASON_NOT_ENTRY, KDHT_REASON_NOT_READY,
    KDHT_REASON_RELAYED, KDHT_REASON_STALE, KDHT_REASON_TOO_LONG, KDHT_REASON_TRACE_ENDS,
    KDHT_REASON_TRUNCATED, KDHT_REQUEST_FLAGS, KDHT_VERSION, be64toh, htobe64, htonl, htons, kdht_config,
    kdht_contact, kdht_header, kdht_key, kdht_outcome, kdht_region, ntohl, ntohs,
)
from kdht.core._prefixes cimport rights_of
from kdht.core._tags cimport body_tag_of, cookie_at, header_tag_of, is_proven, key_of


cdef int _check_form(const kdht_header *header, uint32_t length) noexcept nogil:
    """The reason to drop bytes that are not a message, or KDHT_GO_ON."""
    if length < 4:
        return KDHT_REASON_TRUNCATED
    # Before the length: a short datagram of another protocol is not "truncated".
    if ntohl(header.magic) != KDHT_MAGIC:
        return KDHT_REASON_BAD_MAGIC
    if length < KDHT_HEADER_LEN:
        return KDHT_REASON_TRUNCATED
    # Before all that a version may change.
    if header.version != KDHT_VERSION:
        return KDHT_REASON_BAD_VERSION
    if length > KDHT_MAX_DATAGRAM or ntohs(header.body_len) > KDHT_MAX_BODY:
        return KDHT_REASON_TOO_LONG
    if KDHT_HEADER_LEN + <uint32_t>ntohs(header.body_len) != length:
        return KDHT_REASON_BAD_LENGTH
    # Unknown flags are refused, so that they can get a meaning later without being misread.
    if header.flags & ~KDHT_KNOWN_FLAGS or (header.flags & KDHT_REQUEST_FLAGS and (
            header.flags & KDHT_FLAG_REPLY or header.op > KDHT_LAST_ROUTED_OP)):
        return KDHT_REASON_BAD_FLAGS
    if not (KDHT_FIRST_ROUTED_OP <= header.op <= KDHT_LAST_ROUTED_OP
            or KDHT_FIRST_CONTROL_OP <= header.op <= KDHT_LAST_CONTROL_OP):
        return KDHT_REASON_BAD_OP
    return KDHT_GO_ON


cdef inline bint _is_write(const kdht_header *header) noexcept nogil:
    return KDHT_IS_WRITE(header.op)


cdef inline bint _is_allowed(kdht_region *region, const kdht_header *header, const Plan *plan) noexcept nogil:
    if not plan.config.flags & KDHT_CONFIG_PREFIXES:
        return True
    return rights_of(region, plan.source_ip) & (KDHT_MAY_WRITE if _is_write(header) else KDHT_MAY_READ)


cdef inline bint _needs_cookie(const kdht_header *header, const kdht_config *config) noexcept nogil:
    """A WATCH always does: whoever forged its source would have its victim told of every change."""
    return header.op == KDHT_OP_WATCH or (
        config.flags & KDHT_CONFIG_WRITE_COOKIE and _is_write(header))


cdef int _check_client(kdht_region *region, const kdht_header *header, Plan *plan,
                       kdht_outcome *out) noexcept nogil:
    """A client's request: the reason to drop it, or KDHT_GO_ON, and what the entry node fills in."""
    cdef uint32_t takes = ntohs(header.max_reply)
    cdef uint32_t sent = ntohs(header.body_len)
    cdef bint needs = _needs_cookie(header, plan.config)
    if header.flags & KDHT_FLAG_REPLY or header.op > KDHT_LAST_ROUTED_OP:
        return KDHT_REASON_BAD_FLAGS
    # A client leaves the fields of the entry node empty. Else it could claim another's address; and fields
    # that are zero today can get a meaning later.
    if (header.status or header.time or header.epoch or header.reserved1 or header.client_port
            or header.entry_port or header.reserved2 or header.body_tag or header.header_tag
            or not is_zero(header.client_ip) or not is_zero(header.entry_ip)):
        return KDHT_REASON_FORGED_ORIGIN
    # Nobody receives at port 0, so no answer could be sent.
    if plan.source_port == 0:
        return KDHT_REASON_BAD_ADDRESS
    if not _is_allowed(region, header, plan):
        return KDHT_REASON_NOT_ALLOWED
    plan.hops = header.hops
    # A client must not make a message go around for longer than the operator allows.
    if plan.hops == 0 or plan.hops > plan.config.hop_limit:
        plan.hops = plan.config.hop_limit
    if takes == 0 or takes > KDHT_MAX_BODY:
        takes = KDHT_MAX_BODY
    # A forged source address must not get more bytes than were sent from here.
    if (needs or (takes > sent and plan.config.flags & KDHT_CONFIG_COOKIES)) and not is_proven(
            plan.config, header, plan.source_ip, plan.now):
        if needs:
            return KDHT_REASON_NEEDS_COOKIE
        takes = sent
    out.max_reply = <uint16_t>takes
    return KDHT_GO_ON


cdef int check_member(const kdht_header *header, Plan *plan, kdht_outcome *out) noexcept nogil:
    """A message of another member: the reason to drop it, or KDHT_GO_ON."""
    cdef const kdht_key *key
    cdef uint32_t age = plan.now - ntohl(header.time)
    cdef uint32_t window = plan.config.window
    # Before the tag, because it costs nothing.
    if header.reserved1 or header.reserved2:
        return KDHT_REASON_BAD_FLAGS
    if not plan.config.flags & KDHT_CONFIG_UNTAGGED:
        key = key_of(plan.config, header.epoch)
        if key is NULL:
            return KDHT_REASON_BAD_EPOCH
        if header_tag_of(key, header) != be64toh(header.header_tag):
            return KDHT_REASON_BAD_TAG
    # Unsigned, so that the difference is right when the seconds wrap; both signs, for clocks differ.
    if age > window and <uint32_t>-age > window:
        return KDHT_REASON_STALE
    # After the tag and the time: a forger must not be able to have this counted.
    if header.hops == 0:
        return KDHT_REASON_HOP_LIMIT
    plan.hops = header.hops
    out.max_reply = ntohs(header.max_reply)
    # A member of another version may allow more than a message of this one holds.
    if out.max_reply > KDHT_MAX_BODY:
        out.max_reply = KDHT_MAX_BODY
    return KDHT_GO_ON


cdef bint _body_is_right(const kdht_header *header, const Plan *plan) noexcept nogil:
    """Check the body tag. A client's request has none.

    The node where a message ends checks it, and the entry node does before it gives a reply to the client.
    A node that forwards looks at the header alone, which is fast.
    """
    if not plan.forwarded or plan.config.flags & KDHT_CONFIG_UNTAGGED:
        return True
    return body_tag_of(key_of(plan.config, header.epoch), header) == be64toh(header.body_tag)


cdef inline int _ends_here(const kdht_header *header, const Plan *plan, int reason) noexcept nogil:
    return reason if _body_is_right(header, plan) else KDHT_REASON_BAD_BODY_TAG


cdef int _plan_relay(const kdht_header *header, const Plan *plan, kdht_outcome *out) noexcept nogil:
    """A reply goes to its client if this is its entry node."""
    # First of all: without this check a captured reply could be sent to any node, and would leave from
    # there.
    if header.entry_port != plan.config.port or not is_own(plan.config, header.entry_ip):
        return KDHT_REASON_NOT_ENTRY
    # This node wrote the address when the request entered, but a member may have sent the reply without one.
    if not may_be_answered(header.client_ip, header.client_port):
        return KDHT_REASON_BAD_ADDRESS
    if not _body_is_right(header, plan):
        return KDHT_REASON_BAD_BODY_TAG
    if plan.one_family and not (is_ipv4(header.client_ip) == is_ipv4(plan.target_ip)
                                and is_ipv4(header.entry_ip) == is_ipv4(plan.target_ip)):
        return KDHT_REASON_FAMILY
    memcpy(out.source_ip, header.entry_ip, 16)
    memcpy(out.target_ip, header.client_ip, 16)
    out.source_port = header.entry_port
    out.target_port = header.client_port
    return KDHT_REASON_RELAYED


cdef int _plan_forward(kdht_region *region, const kdht_header *header, const Plan *plan,
                       kdht_outcome *out) noexcept nogil:
    """A routed request goes to the next hop, or ends here."""
    cdef kdht_contact hop
    cdef const uint8_t *source = (<kdht_config *>plan.config).source6
    cdef int reason = find_next_hop(region, plan.config, header.key, header.attempt, &hop)
    if reason != KDHT_REASON_NEXT_HOP:
        return _ends_here(header, plan, reason)
    if plan.hops <= 1:
        if header.op == KDHT_OP_TRACE:  # an answer and no drop: a TRACE is to show how far it came
            return _ends_here(header, plan, KDHT_REASON_TRACE_ENDS)
        return KDHT_REASON_HOP_LIMIT
    if is_ipv4(hop.ip):
        source = (<kdht_config *>plan.config).source4
    if plan.one_family and (is_ipv4(hop.ip) != is_ipv4(plan.target_ip) or is_zero(source)):
        return KDHT_REASON_FAMILY
    memcpy(out.source_ip, source, 16)
    memcpy(out.target_ip, hop.ip, 16)
    memcpy(out.next_id, hop.id, KDHT_ID_LEN)
    out.source_port = plan.config.port
    out.target_port = hop.port
    return KDHT_REASON_NEXT_HOP if plan.forwarded else KDHT_REASON_ENTERED


cdef int plan_message(kdht_region *region, const kdht_header *header, Plan *plan,
                      kdht_outcome *out) noexcept nogil:
    """The reason of the verdict; fills `out`. The message stays as it is."""
    cdef int bad
    if not plan.config.flags & KDHT_CONFIG_READY:
        return KDHT_REASON_NOT_READY
    # Before the form: bytes from such a source are nobody's, whatever they say.
    if is_martian(plan.config, plan.source_ip, plan.inside):
        return KDHT_REASON_MARTIAN
    bad = _check_form(header, plan.length)
    if bad != KDHT_GO_ON:
        return bad
    plan.forwarded = header.flags & KDHT_FLAG_FORWARDED
    bad = check_member(header, plan, out) if plan.forwarded else _check_client(region, header, plan, out)
    if bad != KDHT_GO_ON:
        return bad
    # Control messages never travel: the node that they are sent to is the one that they mean.
    if header.op > KDHT_LAST_ROUTED_OP:
        out.max_reply = 0
        return _ends_here(header, plan, KDHT_REASON_CONTROL)
    if header.flags & KDHT_FLAG_REPLY:
        return _plan_relay(header, plan, out)
    return _plan_forward(region, header, plan, out)


cdef void seal(const kdht_config *config, kdht_header *header, uint32_t now) noexcept nogil:
    """Set flag, time, epoch and both tags: then other members accept it."""
    cdef const kdht_key *key = &config.keys[0]
    header.flags |= KDHT_FLAG_FORWARDED
    header.time = htonl(now)
    header.epoch = key.epoch
    header.body_tag = 0
    # Both tags are zero while the others are computed: the header tag covers the body tag's field.
    header.header_tag = 0
    if not config.flags & KDHT_CONFIG_UNTAGGED:
        header.body_tag = htobe64(body_tag_of(key, header))
        header.header_tag = htobe64(header_tag_of(key, header))


cdef void apply_plan(kdht_header *header, const Plan *plan, const kdht_outcome *out) noexcept nogil:
    """Rewrite the header of a message that goes on."""
    if out.reason == KDHT_REASON_NEXT_HOP:
        header.hops = plan.hops - 1
    elif out.reason == KDHT_REASON_ENTERED:
        header.hops = plan.hops - 1
        memcpy(header.client_ip, plan.source_ip, 16)
        header.client_port = plan.source_port
        memcpy(header.entry_ip, plan.target_ip, 16)
        header.entry_port = plan.target_port
        header.max_reply = htons(out.max_reply)
        # The cookie was for the entry node alone. Inside of the cluster it would only be something to
        # steal.
        header.cookie = 0
        seal(plan.config, header, plan.now)
    elif out.reason == KDHT_REASON_RELAYED:
        _strip(header, plan)


cdef void _strip(kdht_header *header, const Plan *plan) noexcept nogil:
    """Empty the cluster's fields of a reply that leaves for a client, and put a cookie in.

    Tags must not leave the cluster: a client could send them back in within the replay window.
    """
    header.cookie = htobe64(cookie_at(plan.config, header.client_ip, plan.now >> KDHT_COOKIE_SLOT_BITS))
    memset(header.client_ip, 0, 16)
    memset(header.entry_ip, 0, 16)
    header.client_port = header.entry_port = header.max_reply = 0
    header.time = 0
    header.epoch = 0
    header.body_tag = header.header_tag = 0
