/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * A bucket as readers have it: beside the contacts a table of the nearest one, by 8 bits of the key. The core's region
 * and the XDP program's map have the same.
 *
 * The contacts of bucket i and the keys that look there agree in bits 0 to i. The next 8 bits of a key mostly say which
 * contact is nearest. Where several contacts are as near by these bits, the reader compares them.
 */
#ifndef KDHT_NEAREST_H
#define KDHT_NEAREST_H

#include "kdht_shared.h"

#define KDHT_NEAREST_BITS 8
#define KDHT_NEAREST_SIZE (1 << KDHT_NEAREST_BITS)
#define KDHT_SEVERAL 0xff /* in place of a contact's number */

struct kdht_near_bucket {
	struct kdht_bucket bucket;
	__u8 nearest[KDHT_NEAREST_SIZE]; /* the contact's number, by the key's bits behind bit i */
};

/* A bucket as published: the low bit of the sequence names the current copy (kdht_seqlock.h). */
struct kdht_bucket_cell {
	__u32 sequence;
	__u32 pad;
	struct kdht_near_bucket copies[2];
};

/* The 8 bits behind bit `index` of an ID in big-endian words, a zero word behind it. */
static inline __u32 kdht_next_bits(const __u64 *words, __u32 index)
{
	__u32 from = index + 1, word = (from >> 6) & 3, shift = from & 63;
	__u64 bits = words[word] << shift;

	if (shift && word < 3)
		bits |= words[word + 1] >> (64 - shift);
	return bits >> (64 - KDHT_NEAREST_BITS);
}

#ifndef __bpf__

static inline void kdht_id_words(const __u8 *id, __u64 *words)
{
	int i;

	words[0] = words[1] = words[2] = words[3] = 0;
	for (i = 0; i < KDHT_ID_LEN; i++)
		words[i / 8] |= (__u64)id[i] << (56 - 8 * (i % 8));
}

/* The number of the contact whose bits are nearest, or KDHT_SEVERAL. */
static inline __u8 kdht_nearest_by_bits(const __u8 *bits, __u32 count, __u32 wanted)
{
	__u32 least = KDHT_NEAREST_SIZE, i;
	__u8 nearest = KDHT_SEVERAL;

	for (i = 0; i < count; i++) {
		__u32 distance = bits[i] ^ wanted;

		if (distance > least)
			continue;
		nearest = distance == least ? KDHT_SEVERAL : i;
		least = distance;
	}
	return nearest;
}

static inline void kdht_fill_nearest(struct kdht_near_bucket *made, __u32 index)
{
	__u32 count = made->bucket.count < KDHT_ROOM ? made->bucket.count : KDHT_ROOM, i;
	__u8 bits[KDHT_ROOM];
	__u64 words[4];

	for (i = 0; i < count; i++) {
		kdht_id_words(made->bucket.contacts[i].id, words);
		bits[i] = kdht_next_bits(words, index);
	}
	for (i = 0; i < KDHT_NEAREST_SIZE; i++)
		made->nearest[i] = kdht_nearest_by_bits(bits, count, i);
}

#endif
#endif
