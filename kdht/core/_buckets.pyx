# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1: the k-buckets in the shared mapping, and the next hop by XOR distance.

Bucket i holds contacts that share exactly i leading bits with this node (Maymounkov and
Mazieres, "Kademlia", 2002). Readers take no lock (include/kdht_region.h, include/kdht_seqlock.h). Every index
and count that a reader takes from a bucket may be half written, so it is checked before use.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kdht.core._layout cimport (
    KDHT_ID_LEN, KDHT_READ_TRIES, KDHT_REASON_ATTEMPT_ENDS, KDHT_REASON_NEXT_HOP,
    KDHT_REASON_NOT_READY, KDHT_REASON_OWNER, KDHT_ROOM, be64toh, clzll, htons, kdht_bucket,
    kdht_bucket_cell, kdht_config, kdht_contact, kdht_fill_nearest, kdht_near_bucket, kdht_next_bits,
    kdht_region, kdht_seq_begin, kdht_seq_fence, kdht_seq_same, kdht_seq_step, ntohl,
)

cdef extern from *:
    int ctzll "__builtin_ctzll"(unsigned long long value) noexcept nogil

ctypedef unsigned long long word_t  # 64 bits of an ID, the type of the shared headers


cdef inline uint64_t _word(const uint8_t *id, int i) noexcept nogil:
    """64 bits of an ID, the first bit on top; the third word's low half is zero."""
    cdef uint64_t word
    cdef uint32_t half
    # memcpy and not a cast: the ID lies at any address within a packet.
    if i < 2:
        memcpy(&word, id + 8 * i, 8)
        return be64toh(word)
    memcpy(&half, id + 16, 4)
    return <uint64_t>ntohl(half) << 32


cdef inline int _compare(const uint8_t *a, const uint8_t *b, const word_t *key) noexcept nogil:
    """Negative if `a` is nearer to the key than `b`, positive if it is farther, 0 if they are the same."""
    cdef int i
    cdef uint64_t da, db
    for i in range(3):
        da = _word(a, i) ^ key[i]
        db = _word(b, i) ^ key[i]
        if da != db:
            return -1 if da < db else 1
    return 0


cdef uint32_t _nearest(const kdht_bucket *bucket, uint32_t count, const word_t *key,
                       uint64_t taken) noexcept nogil:
    """The index of the bucket's contact nearest to the key, without those whose bits are set in `taken`.

    At least one is not taken.
    """
    cdef uint32_t best = <uint32_t>ctzll(~taken), i
    cdef uint64_t top, best_top = _word(bucket.contacts[best].id, 0) ^ key[0]
    cdef bint nearer
    for i in range(best + 1, count):
        if taken >> i & 1:
            continue
        top = _word(bucket.contacts[i].id, 0) ^ key[0]
        nearer = top < best_top
        # Nearly always the first 64 bits decide.
        if top == best_top:
            nearer = _compare(bucket.contacts[i].id, bucket.contacts[best].id, key) < 0
        # Choices and no branch: a processor cannot guess which contact is nearer.
        best = i if nearer else best
        best_top = top if nearer else best_top
    return best


cdef uint32_t _ranked(const kdht_bucket *bucket, uint32_t count, const word_t *key,
                      uint32_t rank) noexcept nogil:
    """The index of the contact with `rank` others nearer to the key; rank is below count."""
    cdef uint64_t taken = 0
    cdef uint32_t _i
    # A retry asks for one of the first: a few searches cost less than an order of all.
    for _i in range(rank):
        taken |= <uint64_t>1 << _nearest(bucket, count, key, taken)
    return _nearest(bucket, count, key, taken)


cdef inline uint32_t _place(const kdht_near_bucket *made, uint32_t count, uint32_t index, const word_t *key,
                            uint32_t skip) noexcept nogil:
    """Where the contact with `skip` nearer ones is; skip is below count. `index` is the bucket's."""
    cdef uint32_t at
    if skip:
        return _ranked(&made.bucket, count, key, skip)
    at = made.nearest[kdht_next_bits(key, index)]
    # Not in the table if the key's 8 bits do not decide, nor while the writer is in.
    return at if at < count else _nearest(&made.bucket, count, key, 0)


cdef int _pick(const kdht_region *region, uint32_t index, const word_t *key, uint32_t *skip,
               kdht_contact *found) noexcept nogil:
    """1 and the contact with `skip` nearer ones in this bucket. 0, and `skip` lowered, if it has too few
    contacts. -1 if the writer won KDHT_READ_TRIES races."""
    cdef const kdht_bucket_cell *cell = &region.buckets[index]
    cdef uint32_t begun, count
    cdef const kdht_near_bucket *made
    cdef int _try
    for _try in range(KDHT_READ_TRIES):
        begun = kdht_seq_begin(&cell.sequence)
        made = &cell.copies[begun & 1]
        # Once: a second read could give another number, after the check.
        count = made.bucket.count
        # Half written: a reader must never walk past the end.
        if count > KDHT_ROOM:
            continue
        if skip[0] < count:
            memcpy(found, &made.bucket.contacts[_place(made, count, index, key, skip[0])],
                   sizeof(kdht_contact))
        if not kdht_seq_same(&cell.sequence, begun):
            continue
        if skip[0] < count:
            return 1
        # The contacts of the next bucket are all farther, so counting goes on there.
        skip[0] -= count
        return 0
    return -1


cdef int find_next_hop(const kdht_region *region, const kdht_config *config, const uint8_t *key_id,
                       uint32_t attempt, kdht_contact *found) noexcept nogil:
    """KDHT_REASON_NEXT_HOP and the contact, or the reason why there is none.

    Exactly the contacts in the buckets whose bit of self XOR key is set are closer to the key than this node.
    Taken bucket by bucket, ascending, they are in order of distance (Maymounkov and Mazieres, "Kademlia",
    2002, section 2).
    """
    cdef word_t key[4]  # a zero word behind it, for kdht_next_bits
    cdef uint64_t closer
    cdef uint32_t skip = attempt
    cdef int word, bit, picked
    key[0], key[1], key[2], key[3] = _word(key_id, 0), _word(key_id, 1), _word(key_id, 2), 0
    for word in range(3):
        closer = (_word(config.self_id, word) ^ key[word]) & config.occupancy[word]
        while closer:
            bit = clzll(closer)
            closer &= ~(<uint64_t>1 << (63 - bit))
            picked = _pick(region, 64 * word + bit, key, &skip, found)
            if picked > 0:
                return KDHT_REASON_NEXT_HOP
            # A datapath must not wait for the writer. The socket treats the message.
            if picked < 0:
                return KDHT_REASON_NOT_READY
    return KDHT_REASON_OWNER if skip == attempt else KDHT_REASON_ATTEMPT_ENDS


cdef int find_closest(const kdht_region *region, const kdht_config *config, const uint8_t *key_id,
                      int wanted, kdht_contact *found) noexcept nogil:
    """Write up to `wanted` contacts to `found`, nearest to the key first. Gives how many.

    First the buckets whose bit of self XOR key is set, ascending, then those whose bit is clear,
    descending: each bucket's contacts are nearer than all of the next.
    """
    cdef word_t key[3]
    cdef uint64_t closer[3]
    cdef uint64_t bits
    cdef int count = 0, index, word
    for word in range(3):
        key[word] = _word(key_id, word)
        closer[word] = _word(config.self_id, word) ^ key[word]
    # Only buckets that hold contacts, as in `count_closer`: a table has few of them.
    for word in range(3):
        bits = closer[word] & config.occupancy[word]
        while bits and count < wanted:
            index = clzll(bits)
            bits &= ~(<uint64_t>1 << (63 - index))
            count += _sorted(region, config, 64 * word + index, key, wanted - count, found + count)
    for word in range(2, -1, -1):
        bits = ~closer[word] & config.occupancy[word]
        while bits and count < wanted:
            index = 63 - ctzll(bits)
            bits &= bits - 1
            count += _sorted(region, config, 64 * word + index, key, wanted - count, found + count)
    return count


cdef int count_closer(const kdht_region *region, const kdht_config *config,
                      const uint8_t *key_id) noexcept nogil:
    """How many contacts are nearer to the key than this node: all those in buckets whose bit is set."""
    cdef uint64_t closer
    cdef int word, bit, count = 0
    for word in range(3):
        closer = (_word(config.self_id, word) ^ _word(key_id, word)) & config.occupancy[word]
        while closer:
            bit = clzll(closer)
            closer &= ~(<uint64_t>1 << (63 - bit))
            count += _size(&region.buckets[64 * word + bit])
    return count


cdef int _size(const kdht_bucket_cell *cell) noexcept nogil:
    """The number of contacts in a bucket."""
    return <int>min(cell.copies[kdht_seq_begin(&cell.sequence) & 1].bucket.count, <uint32_t>KDHT_ROOM)


cdef int _sorted(const kdht_region *region, const kdht_config *config, int index, const word_t *key,
                 int wanted, kdht_contact *found) noexcept nogil:
    """Write up to `wanted` contacts of one bucket, nearest to the key first. Gives how many.

    0 if the writer keeps changing the bucket.
    """
    cdef kdht_bucket bucket
    cdef uint64_t taken = 0
    cdef uint32_t i, at
    if not config.occupancy[index >> 6] >> (63 - (index & 63)) & 1:
        return 0
    if not _copy(&region.buckets[index], &bucket):
        return 0
    for i in range(bucket.count):
        if <int>i >= wanted:
            return wanted
        at = _nearest(&bucket, bucket.count, key, taken)
        taken |= <uint64_t>1 << at
        memcpy(found + i, &bucket.contacts[at], sizeof(kdht_contact))
    return <int>bucket.count


cdef bint _copy(const kdht_bucket_cell *cell, kdht_bucket *bucket) noexcept nogil:
    """Copy the bucket as published. False if the writer won KDHT_READ_TRIES races."""
    cdef uint32_t begun
    cdef int _try
    for _try in range(KDHT_READ_TRIES):
        begun = kdht_seq_begin(&cell.sequence)
        bucket[0] = cell.copies[begun & 1].bucket
        if kdht_seq_same(&cell.sequence, begun):
            return bucket.count <= KDHT_ROOM
    return False


cdef int write_bucket(kdht_region *region, int index, contacts) except -1:
    """Publish the contacts of one bucket. Readers see all of it or none.

    Fills the copy that is not current. So the writer never waits, and a writer that is killed half way
    leaves one whole copy. The caller has checked the contacts and is the only writer.
    """
    cdef kdht_bucket_cell *cell = &region.buckets[index]
    cdef kdht_near_bucket *made = &cell.copies[~cell.sequence & 1]
    cdef kdht_bucket *bucket = &made.bucket
    cdef int i
    # Nothing to publish, and readers are not disturbed.
    if not contacts and cell.copies[cell.sequence & 1].bucket.count == 0:
        return 0
    kdht_seq_fence()
    for i, contact in enumerate(contacts):
        memcpy(bucket.contacts[i].id, <const uint8_t *><bytes>contact.id, KDHT_ID_LEN)
        memcpy(bucket.contacts[i].ip, <const uint8_t *><bytes>contact.ip, 16)
        bucket.contacts[i].port = htons(contact.port)
    bucket.count = <uint32_t>len(contacts)
    kdht_fill_nearest(made, index)
    kdht_seq_step(&cell.sequence)
    return 0
