# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1: the table of prefixes, which says what the addresses under each may do.

The longest prefix of an address counts, as in a routing table and in the XDP program's trie. The table lies
in the shared mapping, longest prefixes first. kdht/datapath/senders.py makes it from the operator's lists.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from kdht.core._layout cimport (
    KDHT_MAX_PREFIXES, KDHT_MAY_READ, KDHT_MAY_WRITE, KDHT_READ_TRIES, kdht_prefix, kdht_prefix_cell,
    kdht_region, kdht_seq_begin, kdht_seq_fence, kdht_seq_same, kdht_seq_step,
)

cdef inline bint _is_under(const kdht_prefix *prefix, const uint8_t *ip) noexcept nogil:
    cdef uint32_t whole = prefix.bits >> 3, rest = prefix.bits & 7
    if memcmp(prefix.ip, ip, whole):
        return False
    return rest == 0 or (prefix.ip[whole] ^ ip[whole]) >> (8 - rest) == 0


cdef uint32_t rights_of(const kdht_region *region, const uint8_t *ip) noexcept nogil:
    cdef const kdht_prefix_cell *cell = &region.prefixes
    cdef const kdht_prefix *prefix
    cdef uint32_t begun, i, rights
    cdef int _try
    for _try in range(KDHT_READ_TRIES):
        begun = kdht_seq_begin(&cell.sequence)
        rights = 0
        # The count may be half written. The longest prefixes come first, so the first match is the one
        # that counts.
        for i in range(min(cell.counts[begun & 1], <uint32_t>KDHT_MAX_PREFIXES)):
            prefix = &cell.copies[begun & 1][i]
            if _is_under(prefix, ip):
                rights = prefix.rights
                break
        if kdht_seq_same(&cell.sequence, begun):
            return rights
    return 0


cdef int write_prefixes(kdht_region *region, prefixes) except -1:
    """Publish (16-byte address, bits, rights) of each prefix. Raises ValueError for an impossible one."""
    cdef kdht_prefix_cell *cell = &region.prefixes
    cdef uint32_t other = ~cell.sequence & 1
    cdef kdht_prefix *at
    cdef bytes ip
    cdef uint32_t i
    if len(prefixes) > KDHT_MAX_PREFIXES:
        raise ValueError(f"the table holds {KDHT_MAX_PREFIXES} prefixes, not {len(prefixes)}")
    for ip, bits, rights in prefixes:
        if len(ip) != 16 or not 0 <= bits <= 128 or rights & ~(KDHT_MAY_READ | KDHT_MAY_WRITE):
            raise ValueError(f"no prefix: {ip.hex()}, {bits} bits, rights {rights}")
    kdht_seq_fence()
    for i, (ip, bits, rights) in enumerate(sorted(prefixes, key=_longest_first)):
        at = &cell.copies[other][i]
        memcpy(at.ip, <const uint8_t *>ip, 16)
        at.bits, at.rights = bits, rights
    cell.counts[other] = <uint32_t>len(prefixes)
    kdht_seq_step(&cell.sequence)
    return 0


def _longest_first(prefix):
    return -prefix[1]


cdef list read_prefixes(const kdht_region *region):
    """The published prefixes. The caller is the writer, or holds it still."""
    cdef const kdht_prefix_cell *cell = &region.prefixes
    cdef uint32_t copy = cell.sequence & 1, i
    return [(cell.copies[copy][i].ip[:16], cell.copies[copy][i].bits, cell.copies[copy][i].rights)
            for i in range(cell.counts[copy])]
