/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012)
 * over a header of whole words and over a body of any length. User space and BPF
 * share it; tests/core/test_tags.py holds it against the paper's vectors.
 */
#ifndef KDHT_SIPHASH_H
#define KDHT_SIPHASH_H

#include <linux/types.h>

#define KDHT_INLINE static inline __attribute__((always_inline))

struct kdht_sip {
	__u64 v0, v1, v2, v3;
};

KDHT_INLINE __u64 kdht_rotl(__u64 x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

KDHT_INLINE void kdht_sip_round(struct kdht_sip *s)
{
	s->v0 += s->v1; s->v1 = kdht_rotl(s->v1, 13); s->v1 ^= s->v0; s->v0 = kdht_rotl(s->v0, 32);
	s->v2 += s->v3; s->v3 = kdht_rotl(s->v3, 16); s->v3 ^= s->v2;
	s->v0 += s->v3; s->v3 = kdht_rotl(s->v3, 21); s->v3 ^= s->v0;
	s->v2 += s->v1; s->v1 = kdht_rotl(s->v1, 17); s->v1 ^= s->v2; s->v2 = kdht_rotl(s->v2, 32);
}

KDHT_INLINE void kdht_sip_start(struct kdht_sip *s, __u64 k0, __u64 k1)
{
	s->v0 = 0x736f6d6570736575ull ^ k0;
	s->v1 = 0x646f72616e646f6dull ^ k1;
	s->v2 = 0x6c7967656e657261ull ^ k0;
	s->v3 = 0x7465646279746573ull ^ k1;
}

KDHT_INLINE void kdht_sip_word(struct kdht_sip *s, __u64 word)
{
	s->v3 ^= word;
	kdht_sip_round(s);
	kdht_sip_round(s);
	s->v0 ^= word;
}

/* `last`: the bytes after the last whole word, little-endian, and the length's low byte on top. */
KDHT_INLINE __u64 kdht_sip_end(struct kdht_sip *s, __u64 last)
{
	kdht_sip_word(s, last);
	s->v2 ^= 0xff;
	kdht_sip_round(s);
	kdht_sip_round(s);
	kdht_sip_round(s);
	kdht_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* One little-endian word of a message, wherever it lies. */
KDHT_INLINE __u64 kdht_sip_read(const void *at)
{
	__u64 word;

	__builtin_memcpy(&word, at, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	return word;
}

/* Any length up to 2^32 bytes, for user space: BPF walks its packets with bounds of its own. */
KDHT_INLINE __u64 kdht_siphash(__u64 k0, __u64 k1, const __u8 *data, __u32 len)
{
	struct kdht_sip s;
	__u64 last = (__u64)len << 56;
	__u32 whole = len & ~7u, i;

	kdht_sip_start(&s, k0, k1);
	for (i = 0; i < whole; i += 8)
		kdht_sip_word(&s, kdht_sip_read(data + i));
	for (i = whole; i < len; i++)
		last |= (__u64)data[i] << (8 * (i - whole));
	return kdht_sip_end(&s, last);
}

#endif
