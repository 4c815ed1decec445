/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The next hop, as kdht/core/_buckets.pyx finds it: the buckets whose bit of self XOR key is
 * set, ascending, and in each the contacts by distance; `skip` contacts are passed over.
 */
#ifndef KDHT_TABLE_H
#define KDHT_TABLE_H

#include "parse.h"

static __always_inline __u64 kdht_id_word(const __u8 *id, int i)
{
	if (i < 2)
		return bpf_be64_to_cpu(*(const __u64 *)(id + 8 * i));
	return (__u64)bpf_ntohl(*(const __u32 *)(id + 16)) << 32;
}

static __always_inline int kdht_nearer(const __u8 *a, const __u8 *b, const __u64 *key)
{
#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u64 da = kdht_id_word(a, i) ^ key[i], db = kdht_id_word(b, i) ^ key[i];

		if (da != db)
			return da < db;
	}
	return 0;
}

/* How many of the bucket's contacts are nearer to the key than the one at `at`. */
__noinline __u32 kdht_rank(struct kdht_bucket *bucket, const struct kdht_walk *walk, __u32 at)
{
	__u32 nearer = 0;

	if (!bucket || !walk || at >= KDHT_K)
		return 0;
	for (__u32 i = 0; i < KDHT_K; i++) {
		if (i >= bucket->count)
			break;
		nearer += kdht_nearer(bucket->contacts[i].id, bucket->contacts[at].id, walk->key);
	}
	return nearer;
}

/* The contact nearest to the key. What is nearest so far lies in a map: the verifier would walk on for each answer. */
__noinline __u32 kdht_nearest(struct kdht_bucket *bucket, struct kdht_walk *walk)
{
	__u64 key;

	if (!bucket || !walk)
		return 0;
	key = walk->key[0];
	walk->best = 0;
	walk->least = ~0ull;
	for (__u32 i = 0; i < KDHT_ROOM; i++) {
		__u64 distance = kdht_id_word(bucket->contacts[i].id, 0) ^ key;
		__u32 best;

		barrier(); /* else the compiler keeps them in registers */
		best = walk->best;
		if (i >= bucket->count)
			break;
		if (distance > walk->least || best >= KDHT_ROOM)
			continue;
		if (distance == walk->least && !kdht_nearer(bucket->contacts[i].id, bucket->contacts[best].id, walk->key))
			continue;
		walk->least = distance;
		walk->best = i;
	}
	return walk->best;
}

/*
 * A program has no acquire load. On x86 loads stay in order, so the compiler alone must be kept from moving them. A
 * read-modify-write that gives a value keeps the order on all machines.
 */
static __always_inline void kdht_read_fence(void)
{
#ifdef KDHT_LOADS_STAY_IN_ORDER
	barrier();
#else
	__u64 fence = 0;

	/* The asm uses the value, or the compiler would take the form that gives none. */
	asm volatile("" : : "r"(__sync_fetch_and_add(&fence, 1)) : "memory");
#endif
}

static __always_inline __u32 kdht_begin(const __u32 *sequence)
{
	__u32 begun = *(const volatile __u32 *)sequence;

	kdht_read_fence();
	return begun;
}

/* Whether what was read since kdht_begin is one whole state. */
static __always_inline int kdht_is_same(const __u32 *sequence, __u32 begun)
{
	kdht_read_fence();
	return *(const volatile __u32 *)sequence == begun;
}

enum kdht_looked {
	KDHT_PASSED_OVER, /* the hop is in a later bucket */
	KDHT_ENDED,       /* the hop was found, or the search gives up */
	KDHT_CHANGED,     /* the daemon published meanwhile: what was read may be half a bucket */
};

/* The contact with walk->skip nearer ones in the bucket; KDHT_ROOM if there is none, or the socket has to search. */
static __always_inline __u32 kdht_pick(struct kdht_near_bucket *made, struct kdht_walk *walk, __u32 index)
{
	struct kdht_bucket *bucket = &made->bucket;
	__u32 count = bucket->count, at;

	if (walk->skip >= count)
		return KDHT_ROOM;
	if (!walk->skip) {
		at = made->nearest[kdht_next_bits(walk->key, index)];
		return at == KDHT_SEVERAL ? kdht_nearest(bucket, walk) : at;
	}
	if (count > KDHT_K)
		return KDHT_ROOM;
	for (at = 0; at < KDHT_K; at++)
		if (at < count && kdht_rank(bucket, walk, at) == walk->skip)
			return at;
	return KDHT_ROOM;
}

/* Look into one bucket once. Global functions: the verifier checks each once. */
__noinline int kdht_look_once(__u32 index, struct kdht_walk *walk)
{
	struct kdht_near_bucket *made;
	struct kdht_bucket_cell *cell;
	__u32 begun, count, at;

	if (!walk)
		return KDHT_PASSED_OVER;
	cell = bpf_map_lookup_elem(&kdht_buckets, &index);
	if (!cell)
		return KDHT_PASSED_OVER;
	begun = kdht_begin(&cell->sequence);
	made = begun & 1 ? &cell->copies[1] : &cell->copies[0];
	count = made->bucket.count;
	at = kdht_pick(made, walk, index);
	if (at < KDHT_ROOM) {
		walk->ip = kdht_ip_at(made->bucket.contacts[at].ip);
		walk->port = made->bucket.contacts[at].port;
		walk->number = index * KDHT_ROOM + at;
	}
	if (!kdht_is_same(&cell->sequence, begun))
		return KDHT_CHANGED;
	if (walk->skip >= count) {
		walk->skip -= count;
		return KDHT_PASSED_OVER;
	}
	if (at < KDHT_ROOM)
		walk->found = 1;
	else
		walk->gives_up = 1; /* a wide bucket */
	return KDHT_ENDED;
}

/* Search one bucket. 1: the search is at its end. */
__noinline int kdht_look(__u32 index, struct kdht_walk *walk)
{
	int looked;

	if (!walk)
		return 1;
	for (int i = 0; i < KDHT_READ_TRIES; i++) {
		looked = kdht_look_once(index, walk);
		if (looked != KDHT_CHANGED)
			return looked == KDHT_ENDED;
	}
	walk->gives_up = 1;
	return 1;
}

static __always_inline __u32 kdht_first_bit(__u64 word)
{
	__u32 bit = 0;

#pragma unroll
	for (int half = 32; half; half >>= 1)
		if (!(word >> (64 - half))) {
			bit += half;
			word <<= half;
		}
	return bit;
}

static long kdht_step(__u32 i, void *context)
{
	struct kdht_walk *walk = *(struct kdht_walk **)context;
	__u32 word, bit;

	for (word = 0; word < 3; word++)
		if (walk->closer[word])
			break;
	if (word >= 3)
		return 1;
	bit = kdht_first_bit(walk->closer[word]);
	walk->closer[word] &= ~(1ull << (63 - bit));
	return kdht_look(64 * word + bit, walk) != 0; /* 1 ends the loop */
}

/* The first bit of a byte that is set, from its top bit on. */
static const __u8 kdht_first_bits[256] = {
	[0] = 8,          [1] = 7,          [2 ... 3] = 6,    [4 ... 7] = 5,     [8 ... 15] = 4,
	[16 ... 31] = 3,  [32 ... 63] = 2,  [64 ... 127] = 1, [128 ... 255] = 0,
};

/*
 * The case of nearly all messages: the hop is in one of the first 8 buckets, and the bucket's table of nearest contacts
 * says which it is. 0: a full search is needed, or the daemon published meanwhile.
 */
static __always_inline int kdht_quick_hop(const struct kdht_config *config, const struct kdht_header *header,
					  struct kdht_walk *walk)
{
	__u64 key = kdht_id_word(header->key, 0);
	__u64 closer = (kdht_id_word(config->self_id, 0) ^ key) & config->occupancy[0];
	__u32 index = kdht_first_bits[closer >> 56], begun, at;
	const struct kdht_near_bucket *made;
	struct kdht_bucket_cell *cell;

	if (header->attempt || index > 7)
		return 0;
	cell = bpf_map_lookup_elem(&kdht_buckets, &index);
	if (!cell)
		return 0;
	begun = kdht_begin(&cell->sequence);
	made = begun & 1 ? &cell->copies[1] : &cell->copies[0];
	at = made->nearest[(key << (index + 1)) >> (64 - KDHT_NEAREST_BITS)];
	if (at >= KDHT_ROOM || at >= made->bucket.count)
		return 0;
	walk->ip = kdht_ip_at(made->bucket.contacts[at].ip);
	walk->port = made->bucket.contacts[at].port;
	walk->number = index * KDHT_ROOM + at;
	return kdht_is_same(&cell->sequence, begun);
}

/* Search the first bucket, for a request without `attempt`. 1: the search is at its end. */
static __always_inline int kdht_look_first(struct kdht_walk *walk)
{
	__u32 word = walk->closer[0] ? 0 : walk->closer[1] ? 1 : 2;

	return kdht_look(64 * word + kdht_first_bit(walk->closer[word]), walk);
}

/*
 * The reason: NEXT_HOP, with walk->ip and port, or OWNER or ATTEMPT_ENDS. NOT_READY if a retry meets a wide bucket
 * (more than KDHT_K contacts): to rank 40 contacts would take too long here, so the socket does it.
 */
static __always_inline int kdht_next_hop(const struct kdht_config *config, const struct kdht_header *header,
					 struct kdht_walk *walk)
{
	__u64 any = 0;

	walk->skip = header->attempt;
	walk->found = 0;
	walk->gives_up = 0;
	walk->key[3] = 0;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u64 key = kdht_id_word(header->key, i);
		__u64 closer = (kdht_id_word(config->self_id, i) ^ key) & config->occupancy[i];

		walk->key[i] = key;
		walk->closer[i] = closer;
		any |= closer;
	}
	if (!any)
		return KDHT_REASON_OWNER;
	if (walk->skip || !kdht_look_first(walk))
		bpf_loop(KDHT_ID_BITS, kdht_step, &walk, 0);
	if (walk->gives_up)
		return KDHT_REASON_NOT_READY;
	if (walk->found)
		return KDHT_REASON_NEXT_HOP;
	return walk->skip == header->attempt ? KDHT_REASON_OWNER : KDHT_REASON_ATTEMPT_ENDS;
}

#endif
