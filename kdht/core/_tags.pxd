# cython: language_level=3
"""Tags and cookies; no function here can fail."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kdht.core._layout cimport kdht_config, kdht_header, kdht_key

cdef uint64_t header_tag_of(const kdht_key *key, const kdht_header *header) noexcept nogil
cdef uint64_t body_tag_of(const kdht_key *key, const kdht_header *header) noexcept nogil
cdef uint64_t cookie_at(const kdht_config *config, const uint8_t *ip, uint64_t slot) noexcept nogil
cdef bint is_proven(const kdht_config *config, const kdht_header *header,
                    const uint8_t *ip, uint32_t now) noexcept nogil
cdef const kdht_key *key_of(const kdht_config *config, uint8_t epoch) noexcept nogil
