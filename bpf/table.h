/* SPDX-License-Identifier: Apache-2.0
 *
 * The next hop, as kdht/_buckets.pyx finds it: the buckets whose bit of self XOR key is
 * set, ascending, and in each the contacts by distance; `skip` contacts are passed over.
 */
#ifndef KDHT_TABLE_H
#define KDHT_TABLE_H

#include "parse.h"

struct kdht_walk {
	__u64 key[3];    /* big-endian words, the last one's low half zero */
	__u64 closer[3]; /* buckets still to be looked at, bucket 0 the top bit of the first word */
	__u32 skip;
	__u32 found;
	struct kdht_ip128 ip; /* of the hop that was found */
	__be16 port;
};

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

/* The contact nearest to the key. */
__noinline __u32 kdht_nearest(struct kdht_bucket *bucket, const struct kdht_walk *walk)
{
	__u32 best = 0;

	if (!bucket || !walk)
		return 0;
	for (__u32 i = 1; i < KDHT_K; i++) {
		if (i >= bucket->count)
			break;
		if (best < KDHT_K && kdht_nearer(bucket->contacts[i].id, bucket->contacts[best].id, walk->key))
			best = i;
	}
	return best;
}

/* Look into one bucket: 1 if the hop was found there. */
__noinline int kdht_look(__u32 index, struct kdht_walk *walk)
{
	struct kdht_bucket *bucket;
	__u32 at, count;

	if (!walk)
		return 0;
	bucket = bpf_map_lookup_elem(&kdht_buckets, &index);
	if (!bucket)
		return 0;
	count = bucket->count;
	if (walk->skip >= count) {
		walk->skip -= count;
		return 0;
	}
	at = 0;
	if (!walk->skip)
		at = kdht_nearest(bucket, walk);
	else
		for (; at < KDHT_K - 1; at++)
			if (at < count && kdht_rank(bucket, walk, at) == walk->skip)
				break;
	if (at >= KDHT_K)
		return 0;
	walk->ip = kdht_ip_at(bucket->contacts[at].ip);
	walk->port = bucket->contacts[at].port;
	walk->found = 1;
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
	struct kdht_walk *walk = context;
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

/* The reason: NEXT_HOP and walk->hop, OWNER or ATTEMPT_ENDS. */
static __always_inline int kdht_next_hop(const struct kdht_config *config, const struct kdht_header *header,
					 struct kdht_walk *walk)
{
	walk->skip = header->attempt;
	walk->found = 0;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		walk->key[i] = kdht_id_word(header->key, i);
		walk->closer[i] = (kdht_id_word(config->self_id, i) ^ walk->key[i]) & config->occupancy[i];
	}
	bpf_loop(KDHT_ID_BITS, kdht_step, walk, 0);
	if (walk->found)
		return KDHT_REASON_NEXT_HOP;
	return walk->skip == header->attempt ? KDHT_REASON_OWNER : KDHT_REASON_ATTEMPT_ENDS;
}

#endif
