# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
# distutils: depends = kdht/core/nh_sse2.h kdht/core/nh_avx2.h
"""Layer 1: tags that only a member can make, and cookies that prove a client's address.

The functions are in include/kdht_tags.h and include/kdht_siphash.h, and faster ones in nh_avx2.h;
docs/protocol.md says what each covers.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._layout cimport (
    KDHT_COOKIE_PRF_LEN, KDHT_COOKIE_SLOT_BITS, KDHT_HEADER_LEN, KDHT_KEY_SLOTS, KDHT_MAX_DATAGRAM,
    KDHT_TAG_KEY_LEN, be64toh, htobe64, kdht_config, kdht_header, kdht_key, kdht_read_key, kdht_siphash,
    ntohs,
)

cdef extern from "nh_avx2.h" nogil:
    int kdht_tag_way()
    uint64_t kdht_header_tag_by(int way, const kdht_key *key, const void *message)
    uint64_t kdht_body_tag_by(int way, const kdht_key *key, const kdht_header *message, uint32_t length)


WAYS = tuple(range(kdht_tag_way() + 1))  # that this processor has: scalar, SSE2, AVX2


def tags_by(int way, bytes tag_key, bytes message):
    """Header tag and body tag of a whole message, made in one of WAYS: for tests.

    `tag_key`: as `kdht.wire.keys` derives it. Raises ValueError for another way or a wrong length.
    """
    cdef kdht_key key
    cdef const kdht_header *header
    if way not in WAYS or len(tag_key) != KDHT_TAG_KEY_LEN or not (
            KDHT_HEADER_LEN <= len(message) <= KDHT_MAX_DATAGRAM):
        raise ValueError("no such way, or a wrong length")
    kdht_read_key(&key, tag_key)
    header = <const kdht_header *><const uint8_t *>message
    return (kdht_header_tag_by(way, &key, header),
            kdht_body_tag_by(way, &key, header, <uint32_t>len(message) - KDHT_HEADER_LEN))


cdef uint64_t header_tag_of(const kdht_key *key, const kdht_header *header) noexcept nogil:
    return kdht_header_tag_by(kdht_tag_way(), key, header)


cdef uint64_t body_tag_of(const kdht_key *key, const kdht_header *header) noexcept nogil:
    """0 for a body that is padding. The caller has checked the body length."""
    return kdht_body_tag_by(kdht_tag_way(), key, header, ntohs(header.body_len))


cdef uint64_t cookie_at(const kdht_config *config, const uint8_t *ip, uint64_t slot) noexcept nogil:
    """Shows for one time slot that its bearer receives what is sent to `ip`. Never 0: 0 means no cookie."""
    cdef uint8_t input[KDHT_COOKIE_PRF_LEN]
    cdef uint64_t slot_be = htobe64(slot)
    memcpy(input, ip, 16)
    memcpy(input + 16, &slot_be, 8)
    cdef uint64_t cookie = kdht_siphash(config.cookie.k0, config.cookie.k1, input, KDHT_COOKIE_PRF_LEN)
    return cookie if cookie != 0 else 1


cdef bint is_proven(const kdht_config *config, const kdht_header *header,
                    const uint8_t *ip, uint32_t now) noexcept nogil:
    cdef uint64_t slot = now >> KDHT_COOKIE_SLOT_BITS
    cdef uint64_t shown = be64toh(header.cookie)
    if shown == 0:
        return False
    if shown == cookie_at(config, ip, slot) or (slot > 0 and shown == cookie_at(config, ip, slot - 1)):
        return True
    # The next slot is good too: the clock of the node that made the cookie may be ahead. Even within one
    # machine the kernel's coarse clock is milliseconds behind.
    return shown == cookie_at(config, ip, slot + 1)


cdef const kdht_key *key_of(const kdht_config *config, uint8_t epoch) noexcept nogil:
    cdef int i
    for i in range(KDHT_KEY_SLOTS):
        if config.keys[i].valid and config.keys[i].epoch == epoch:
            return &config.keys[i]
    return NULL
