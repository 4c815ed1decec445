# cython: language_level=3
"""The verdict on one message. No function here can fail."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from kdht.core._layout cimport kdht_config, kdht_header, kdht_outcome, kdht_region

cdef struct Plan:
    # `plan_message` fills it for `apply_plan`.
    const kdht_config *config
    uint32_t now
    uint32_t length
    const uint8_t *source_ip
    const uint8_t *target_ip
    uint16_t source_port
    uint16_t target_port
    uint8_t hops
    bint inside         # the sender is on this host
    bint one_family     # a whole packet: it cannot change its IP version
    bint forwarded

cdef int plan_message(kdht_region *region, const kdht_header *header, Plan *plan,
                      kdht_outcome *out) noexcept nogil
cdef int check_member(const kdht_header *header, Plan *plan, kdht_outcome *out) noexcept nogil
cdef void apply_plan(kdht_header *header, const Plan *plan, const kdht_outcome *out) noexcept nogil
cdef void seal(const kdht_config *config, kdht_header *header, uint32_t now) noexcept nogil
