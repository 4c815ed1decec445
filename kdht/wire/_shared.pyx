# cython: language_level=3
# distutils: include_dirs = include
"""The constants of include/kdht_shared.h for Python, SipHash-2-4, and the tags.

Layer 0. Python code takes every number of the protocol from here and writes none itself. Enumerations are
`enum.IntEnum` or `IntFlag`. Scalars are ints under their C names without the prefix KDHT_. `LAYOUT` is the
header's fields as (name, offset, size).
"""

import enum

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stddef.h>
    #include "kdht_rate.h"
    #include "kdht_shared.h"
    #include "kdht_tags.h"

    struct kdht_named { const char *name; int value; int extra; };

    #define X(name, value) {#name, value, 0},
    static const struct kdht_named kdht_op_names[] = {KDHT_OPS(X) {0, 0, 0}};
    static const struct kdht_named kdht_flag_names[] = {KDHT_FLAGS(X) {0, 0, 0}};
    static const struct kdht_named kdht_status_names[] = {KDHT_STATUSES(X) {0, 0, 0}};
    static const struct kdht_named kdht_record_flag_names[] = {KDHT_RECORD_FLAGS(X) {0, 0, 0}};
    static const struct kdht_named kdht_right_names[] = {KDHT_RIGHTS(X) {0, 0, 0}};
    static const struct kdht_named kdht_verdict_names[] = {KDHT_VERDICTS(X) {0, 0, 0}};
    #undef X
    #define X(name, value, verdict) {#name, value, KDHT_##verdict},
    static const struct kdht_named kdht_reason_names[] = {KDHT_REASONS(X) {0, 0, 0}};
    #undef X

    #define F(f) {#f, (int)offsetof(struct kdht_header, f), (int)sizeof(((struct kdht_header *)0)->f)},
    static const struct kdht_named kdht_header_fields[] = {
        F(magic) F(version) F(op) F(flags) F(hops) F(request_id) F(key) F(attempt) F(status)
        F(body_len) F(time) F(epoch) F(reserved1) F(client_port) F(client_ip) F(entry_ip)
        F(entry_port) F(max_reply) F(reserved2) F(cookie) F(body_tag) F(header_tag) {0, 0, 0}};
    #undef F

    #define C(name) {#name, KDHT_##name, 0},
    static const struct kdht_named kdht_scalars[] = {
        C(MAGIC) C(VERSION) C(PORT) C(DISCOVERY_PORT) C(HEADER_LEN) C(TAGGED_LEN) C(MAX_BODY) C(MAX_DATAGRAM)
        C(ID_LEN) C(ID_BITS) C(RECORD_LEN) C(MAX_VALUE) C(CONDITION_LEN) C(MAX_CONDITIONAL_VALUE)
        C(CERTIFIED_BIT) C(SALT_SHIFT) C(MAX_SALT) C(PUBLIC_KEY_LEN) C(SIGNATURE_LEN) C(MAX_SIGNED)
        C(GRANT_LEN) C(PROOF_LEN) C(PROOF_MAC_LEN) C(GRANT_KIND) C(MAX_PROVEN_VALUE)
        C(HEADER_PAIRS) C(BODY_PAIRS) C(HEADER_KEY_WORDS) C(BODY_KEY_WORDS) C(TAG_KEY_LEN)
        C(TRY_BITS) C(COOKIE_SLOT_BITS) C(FIRST_ROUTED_OP)
        C(LAST_ROUTED_OP) C(FIRST_CONTROL_OP) C(LAST_CONTROL_OP) C(KNOWN_FLAGS) C(REQUEST_FLAGS)
        C(K) C(ROOM) C(HOP_LIMIT)
        C(REPLAY_WINDOW) C(MAX_OWN) C(KEY_SLOTS) C(MAX_PREFIXES) C(MAY_READ) C(MAY_WRITE) C(MAX_REPLICAS)
        C(MAX_EXT_HEADERS) C(NEW_TTL) C(RATE_SECOND) C(COSTLY_WEIGHT) C(CROWD_FACTOR) {0, 0, 0}};
    #undef C
    enum { KDHT_CONTACT_LEN = sizeof(struct kdht_contact) };
    """
    cdef struct kdht_named:
        const char *name
        int value
        int extra
    const kdht_named *kdht_op_names
    const kdht_named *kdht_flag_names
    const kdht_named *kdht_status_names
    const kdht_named *kdht_record_flag_names
    const kdht_named *kdht_right_names
    const kdht_named *kdht_verdict_names
    const kdht_named *kdht_reason_names
    const kdht_named *kdht_header_fields
    const kdht_named *kdht_scalars
    int KDHT_CONTACT_LEN
    uint64_t kdht_siphash(uint64_t k0, uint64_t k1, const uint8_t *data, uint32_t length) noexcept nogil
    uint64_t kdht_sip_read(const void *at) noexcept nogil
    cdef struct kdht_key:
        pass
    cdef struct kdht_header:
        pass
    uint64_t kdht_header_tag(const kdht_key *key, const void *message) noexcept nogil
    uint64_t kdht_body_tag(const kdht_key *key, const kdht_header *message, uint32_t length) noexcept nogil
    void kdht_read_key(kdht_key *key, const uint8_t *at) noexcept nogil
    enum:
        KDHT_HEADER_LEN
        KDHT_MAX_BODY
        KDHT_TAG_KEY_LEN


cdef list _rows(const kdht_named *row):
    cdef list rows = []
    while row.name != NULL:
        rows.append((row.name.decode("ascii"), row.value, row.extra))
        row += 1
    return rows


cdef dict _values(const kdht_named *row):
    return {name: value for name, value, _ in _rows(row)}


Op = enum.IntEnum("Op", _values(kdht_op_names), module=__name__)
Flag = enum.IntFlag("Flag", _values(kdht_flag_names), module=__name__)
Status = enum.IntEnum("Status", _values(kdht_status_names), module=__name__)
RecordFlag = enum.IntFlag("RecordFlag", _values(kdht_record_flag_names), module=__name__)
Right = enum.IntFlag("Right", _values(kdht_right_names), module=__name__)
Verdict = enum.IntEnum("Verdict", _values(kdht_verdict_names), module=__name__)
Reason = enum.IntEnum("Reason", _values(kdht_reason_names), module=__name__)
VERDICT_OF = {Reason(value): Verdict(verdict) for _, value, verdict in _rows(kdht_reason_names)}
LAYOUT = tuple(_rows(kdht_header_fields))
CONTACT_LEN = KDHT_CONTACT_LEN

globals().update(_values(kdht_scalars))


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 of `data` under a 16-byte key, as an unsigned 64-bit integer.

    Source: Aumasson and Bernstein, 2012. Raises ValueError for a key of another length.
    """
    if len(key) != 16:
        raise ValueError(f"a SipHash key has 16 bytes, not {len(key)}")
    cdef const uint8_t[::1] view = data
    cdef const uint8_t *key_at = key
    cdef const uint8_t *at = &view[0] if len(data) else NULL
    cdef size_t length = len(data)
    return kdht_siphash(kdht_sip_read(key_at), kdht_sip_read(key_at + 8), at, <uint32_t>length)


def header_tag(key: bytes, message) -> int:
    """The header tag of a message. `key`: TAG_KEY_LEN bytes. Raises ValueError without a whole header."""
    cdef const uint8_t[::1] view = message
    cdef kdht_key read
    _read_key(&read, key)
    if len(view) < KDHT_HEADER_LEN:
        raise ValueError("a message has at least a header")
    return kdht_header_tag(&read, &view[0])


def body_tag(key: bytes, message) -> int:
    """The tag of a message's body: 0 for padding, and for more bytes than a body has."""
    cdef const uint8_t[::1] view = message
    cdef kdht_key read
    cdef Py_ssize_t length = len(view) - KDHT_HEADER_LEN
    _read_key(&read, key)
    if length < 0:
        raise ValueError("a message has at least a header")
    if length > KDHT_MAX_BODY:
        return 0
    return kdht_body_tag(&read, <const kdht_header *>&view[0], <uint32_t>length)


cdef int _read_key(kdht_key *read, bytes key) except -1:
    if len(key) != KDHT_TAG_KEY_LEN:
        raise ValueError(f"a tag key has {KDHT_TAG_KEY_LEN} bytes, not {len(key)}")
    kdht_read_key(read, key)
    return 0
