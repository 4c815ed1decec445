# cython: language_level=3
"""The reply to a request that ended here. No function here can fail."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from kdht.core._layout cimport kdht_config, kdht_header, kdht_outcome

cdef struct Request:
    # The request's addresses and ports, in network order, and its `max_reply`, in host order.
    const uint8_t *source_ip
    const uint8_t *target_ip
    uint16_t source_port
    uint16_t target_port
    uint16_t max_reply

cdef uint32_t write_bounce(const kdht_config *config, kdht_header *header, uint32_t length, uint32_t now,
                           kdht_outcome *out) noexcept nogil
# Whether an ICMP error quotes a message that a member sealed: anybody can forge the error, but not that.
cdef bint is_own_quote(const kdht_config *config, const kdht_header *header, uint32_t length,
                       uint32_t now) noexcept nogil
cdef uint32_t write_reply(const kdht_config *config, kdht_header *header, const Request *request,
                          uint8_t status, const uint8_t *body, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil
