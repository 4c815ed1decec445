# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""A static overlay of up to millions of nodes, through which messages go hop by hop.

Contract: no node has a table of its own. A table is a function of the IDs, the seed and the
node: bucket i holds k random members of the subtree that shares exactly i leading bits with it,
or all. Where a message is, one routing state, a Core's, is filled with that node's table, and the
core gives its verdict on the message, tag and hop limit included: there is no other rule here.
Filling writes the mapping as the core's `configure` and `set_bucket` do, without Python objects.
"""

from array import array

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kdht.core._layout cimport (
    KDHT_FORWARD, KDHT_HEADER_LEN, KDHT_HOP_LIMIT, KDHT_ID_LEN, KDHT_K, KDHT_LOCAL, KDHT_NEAREST_SIZE,
    KDHT_REASON_OWNER, KDHT_SEVERAL, htonl, htons, kdht_bucket, kdht_bucket_cell, kdht_config, kdht_header,
    kdht_near_bucket, kdht_outcome, kdht_region, kdht_seq_step, ntohl,
)
from kdht._routing cimport Core, core_decide_message

from kdht.wire._shared import PORT, Op
from kdht.wire.keys import derive
from kdht.wire import Address, Message

KEY = derive(0, b"the overlays' secret")
MAX_HOPS = KDHT_HOP_LIMIT + 1

cdef enum:
    NOW = 1800000000
    NET = 0xFD  # a node's address is fd00::, its number in the last 4 bytes

cdef extern from *:
    void _prefetch "__builtin_prefetch"(const void *at) noexcept nogil

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15


cdef inline uint64_t _next(uint64_t *state) noexcept nogil:
    """SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014)."""
    cdef uint64_t z
    state[0] += GOLDEN
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint32_t _below(uint64_t *state, uint32_t bound) noexcept nogil:
    return <uint32_t>(((_next(state) >> 32) * bound) >> 32)


cdef inline bint _bit(const uint8_t *id, uint32_t index) noexcept nogil:
    return id[index >> 3] >> (7 - (index & 7)) & 1


cdef inline void _address(uint8_t *ip, uint32_t node) noexcept nogil:
    cdef uint32_t number = htonl(node)
    memset(ip, 0, 16)
    ip[0] = NET
    memcpy(ip + 12, &number, 4)


cdef inline uint32_t _node_at(const uint8_t *ip) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, ip + 12, 4)
    return ntohl(number)


cdef class Overlay:
    """All nodes of an overlay: `ids`, 20 bytes each, ascending. `k`: contacts in a bucket.

    Nodes are numbered in the order of their IDs. Not thread-safe. Raises ValueError for IDs
    that are not so, or a k that is not 1 to 20.
    """

    cdef readonly Core core
    cdef readonly uint32_t count
    cdef readonly uint32_t k
    cdef const uint8_t *ids
    cdef object keep
    cdef uint64_t seed
    cdef uint64_t random
    cdef uint32_t depth  # the buckets of the state that may hold contacts
    cdef kdht_header request
    cdef uint16_t port  # all nodes'; network order
    cdef readonly object forwarded
    """How many messages each node sent on."""
    cdef readonly object ended
    """How many ended there."""
    cdef readonly object hops
    """How many messages took 0, 1, ... MAX_HOPS - 1 hops to a node that owns the key."""
    cdef readonly uint64_t astray
    """Messages that ended elsewhere, or were dropped."""

    def __init__(self, ids: bytes, seed: int, k: int = KDHT_K):
        cdef uint32_t i
        if not ids or len(ids) % KDHT_ID_LEN or len(ids) // KDHT_ID_LEN >= 1 << 31:
            raise ValueError(f"an ID has {KDHT_ID_LEN} bytes, and there is at least one")
        if not 1 <= k <= KDHT_K:
            raise ValueError(f"a bucket holds 1 to {KDHT_K} contacts, not {k}")
        self.keep, self.ids = ids, ids
        self.count, self.k = len(ids) // KDHT_ID_LEN, k
        for i in range(1, self.count):
            if memcmp(self._id(i - 1), self._id(i), KDHT_ID_LEN) >= 0:
                raise ValueError("the IDs do not ascend")
        self.seed = self.random = seed & <uint64_t>-1
        self.depth = 0
        self.core = _make_core(ids[:KDHT_ID_LEN])
        request = bytes(Message(op=Op.GET, key=bytes(KDHT_ID_LEN), request_id=1).pack())
        memcpy(&self.request, <const uint8_t *><bytes>request, KDHT_HEADER_LEN)
        self.port = htons(PORT)
        self.forwarded, self.ended = array("I", bytes(4 * self.count)), array("I", bytes(4 * self.count))
        self.hops = array("Q", bytes(8 * MAX_HOPS))
        self.astray = 0

    # What others may ask

    def id(self, node: int) -> bytes:
        """A node's ID. Raises IndexError."""
        self._check(node)
        return self._id(node)[:KDHT_ID_LEN]

    def visit(self, node: int) -> None:
        """Fill `core` with the node's table. Raises IndexError."""
        self._check(node)
        self._become(node)

    def owner(self, key: bytes) -> int:
        """The node closest to a 20-byte key, of all."""
        _check_key(key)
        return self._owner(key)

    def route(self, key: bytes, entry: int) -> list:
        """The nodes that a GET for `key` visits, from its entry node on. Raises IndexError."""
        cdef uint32_t path[256]
        cdef int hops
        self._check(entry)
        _check_key(key)
        hops = self._route(key, entry, path)
        return [path[i] for i in range(max(hops, 0) + 1)]

    def send(self, messages: int) -> None:
        """Send so many GETs for random keys from random nodes, one after the other, and count."""
        cdef uint32_t[::1] forwarded = self.forwarded, ended = self.ended
        cdef uint64_t[::1] hops = self.hops
        cdef uint64_t _, wanted = messages, word
        cdef uint32_t path[256]
        cdef uint8_t key[24]
        cdef int taken, i
        with nogil:
            for _ in range(wanted):
                for i in range(3):
                    word = _next(&self.random)
                    memcpy(key + 8 * i, &word, 8)
                taken = self._route(key, _below(&self.random, self.count), path)
                if taken < 0 or path[taken] != self._owner(key):
                    self.astray += 1
                    continue
                hops[taken] += 1
                for i in range(taken):
                    forwarded[path[i]] += 1
                ended[path[taken]] += 1

    def shares(self):
        """An array of doubles: the part of all keys that each node is closest to; their sum is 1.

        A node shares the keys of its subtree with each neighbouring subtree that is not empty, half
        and half; those of an empty one are its own. So it is 2 to the minus number of non-empty buckets.
        """
        cdef double[::1] shares = array("d", bytes(8 * self.count))
        cdef uint32_t node
        with nogil:
            for node in range(self.count):
                shares[node] = self._share(node)
        return array("d", shares)

    # The tree of all IDs

    cdef inline const uint8_t *_id(self, uint32_t node) noexcept nogil:
        return self.ids + <size_t>node * KDHT_ID_LEN

    cdef uint32_t _split(self, uint32_t low, uint32_t high, uint32_t bit) noexcept nogil:
        """Of the nodes low <= n < high, which agree in all bits before, the first whose bit is set."""
        cdef uint32_t middle
        while low < high:
            middle = low + (high - low) // 2
            if _bit(self._id(middle), bit):
                high = middle
            else:
                low = middle + 1
        return low

    cdef uint32_t _owner(self, const uint8_t *key) noexcept nogil:
        cdef uint32_t low = 0, high = self.count, at, bit = 0
        while high - low > 1:
            at = self._split(low, high, bit)
            if at != low and at != high:
                if _bit(key, bit):
                    low = at
                else:
                    high = at
            bit += 1
        return low

    cdef double _share(self, uint32_t node) noexcept nogil:
        cdef uint32_t low = 0, high = self.count, at, bit = 0
        cdef double share = 1.0
        while high - low > 1:
            at = self._split(low, high, bit)
            if at != low and at != high:
                share /= 2
            if node < at:
                high = at
            else:
                low = at
            bit += 1
        return share

    # One node's table

    cdef void _become(self, uint32_t node) noexcept nogil:
        cdef kdht_region *region = self.core.region
        cdef kdht_config *config = &region.config.copies[~region.config.sequence & 1]
        cdef uint32_t low = 0, high = self.count, at, bit = 0, depth
        config[0] = region.config.copies[region.config.sequence & 1]
        memcpy(config.self_id, self._id(node), KDHT_ID_LEN)
        _address(config.own[0], node)
        _address(config.source6, node)
        memset(config.occupancy, 0, sizeof(config.occupancy))
        while high - low > 1:
            at = self._split(low, high, bit)
            if node < at:
                self._fill(&region.buckets[bit], config, node, bit, at, high)
                high = at
            else:
                self._fill(&region.buckets[bit], config, node, bit, low, at)
                low = at
            bit += 1
        depth = bit
        while bit < self.depth:
            self._fill(&region.buckets[bit], config, node, bit, 0, 0)
            bit += 1
        self.depth = depth
        kdht_seq_step(&region.config.sequence)

    cdef void _fill(self, kdht_bucket_cell *cell, kdht_config *config, uint32_t node, uint32_t index,
                    uint32_t low, uint32_t high) noexcept nogil:
        """The bucket of the nodes low <= n < high: up to k of them, without repetition."""
        cdef kdht_near_bucket *made = &cell.copies[~cell.sequence & 1]
        cdef kdht_bucket *bucket = &made.bucket
        cdef uint64_t state = self.seed ^ (<uint64_t>node << 8 | index) * GOLDEN
        cdef uint32_t chosen[KDHT_K]
        cdef uint32_t size = high - low, number = min(self.k, size), i = 0, j, candidate
        while i < number:
            candidate = low + (i if size <= self.k else _below(&state, size))
            j = 0
            while j < i and chosen[j] != candidate:
                j += 1
            if j == i:
                chosen[i] = candidate
                _prefetch(self._id(candidate))  # cache misses are most of the time: let them overlap
                i += 1
        for i in range(number):
            memcpy(bucket.contacts[i].id, self._id(chosen[i]), KDHT_ID_LEN)
            _address(bucket.contacts[i].ip, chosen[i])
            bucket.contacts[i].port = config.port
        bucket.count = number
        # No table of the nearest contacts: it would cost more than the one search in this bucket.
        memset(made.nearest, KDHT_SEVERAL, KDHT_NEAREST_SIZE)
        kdht_seq_step(&cell.sequence)
        if number:
            config.occupancy[index >> 6] |= <uint64_t>1 << (63 - (index & 63))

    # One message

    cdef int _route(self, const uint8_t *key, uint32_t entry, uint32_t *path) noexcept nogil:
        """The hops until a node says that the message is its own; -1 if one drops it."""
        cdef kdht_header message
        cdef kdht_outcome out
        cdef uint8_t source[16]
        cdef uint8_t target[16]
        cdef uint32_t here = entry
        cdef int hops = 0, verdict
        message = self.request
        memcpy(message.key, key, KDHT_ID_LEN)
        _address(source, 0)
        source[1] = 1  # a client: no node's address
        _address(target, entry)
        while True:
            path[hops] = here
            self._become(here)
            verdict = core_decide_message(self.core.region, 0, <uint8_t *>&message, KDHT_HEADER_LEN,
                                          source, self.port, target, self.port, False, NOW, &out)
            if verdict != KDHT_FORWARD:
                return hops if verdict == KDHT_LOCAL and out.reason == KDHT_REASON_OWNER else -1
            here = _node_at(out.target_ip)
            memcpy(source, out.source_ip, 16)
            memcpy(target, out.target_ip, 16)
            hops += 1

    cdef _check(self, node):
        if not 0 <= node < self.count:
            raise IndexError(f"there is no node {node}")


cdef _check_key(key):
    if not isinstance(key, bytes) or len(key) != KDHT_ID_LEN:
        raise ValueError(f"a key is {KDHT_ID_LEN} bytes")


cdef Core _make_core(bytes self_id):
    cdef Core core = Core()
    first = Address.of("fd00::", PORT)
    core.configure(self_id=self_id, port=PORT, own=[first.ip], source4=None, source6=first.ip,
                   keys=[(KEY.epoch, KEY.tag)], cookie_key=KEY.cookie, cookies=False)
    return core
