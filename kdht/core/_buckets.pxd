# cython: language_level=3
"""The k-buckets. Reading cannot fail; `write_bucket` raises what its contacts raise."""

from libc.stdint cimport uint8_t, uint32_t

from kdht.core._layout cimport kdht_config, kdht_contact, kdht_region

cdef int find_next_hop(const kdht_region *region, const kdht_config *config, const uint8_t *key_id,
                       uint32_t attempt, kdht_contact *found) noexcept nogil
cdef int write_bucket(kdht_region *region, int index, contacts) except -1
cdef int find_closest(const kdht_region *region, const kdht_config *config, const uint8_t *key_id,
                      int wanted, kdht_contact *found) noexcept nogil
cdef int count_closer(const kdht_region *region, const kdht_config *config,
                      const uint8_t *key_id) noexcept nogil
