/* SPDX-License-Identifier: Apache-2.0
 *
 * The tags of kdht_tags.h for the core, two pairs of words at once where the processor has SSE2: each x86-64 has. The
 * scalar functions are the definition. Client, node and oracle use those (kdht/wire/_shared.pyx), and
 * tests/core/test_tags.py and the comparisons of core and oracle hold this one and nh_avx2.h against them.
 */
#ifndef KDHT_NH_SSE2_H
#define KDHT_NH_SSE2_H

#include "kdht_tags.h"

#ifdef __SSE2__
#include <emmintrin.h>

_Static_assert(KDHT_HEADER_PAIRS % 2 == 0, "pairs are taken by two");

struct kdht_nh_sse2 {
	__m128i lane0, lane1, lane2; /* two sums each */
};

KDHT_INLINE __m128i kdht_nh_products(__m128i sums, __m128i words, const __u32 *key)
{
	__m128i added = _mm_add_epi32(words, _mm_loadu_si128((const __m128i *)key));

	return _mm_add_epi64(sums, _mm_mul_epu32(added, _mm_srli_epi64(added, 32)));
}

/* As two calls of kdht_nh_pair. */
KDHT_INLINE void kdht_nh_two(struct kdht_nh_sse2 *nh, const void *at, const __u32 *key)
{
	__m128i words = _mm_loadu_si128((const __m128i *)at);

	nh->lane0 = kdht_nh_products(nh->lane0, words, key);
	nh->lane1 = kdht_nh_products(nh->lane1, words, key + 2);
	nh->lane2 = kdht_nh_products(nh->lane2, words, key + 4);
}

KDHT_INLINE __u64 kdht_nh_folded(__m128i sums)
{
	return (__u64)_mm_cvtsi128_si64(sums) + (__u64)_mm_cvtsi128_si64(_mm_unpackhi_epi64(sums, sums));
}

KDHT_INLINE struct kdht_nh kdht_nh_joined(const struct kdht_nh_sse2 *nh)
{
	struct kdht_nh joined = {kdht_nh_folded(nh->lane0), kdht_nh_folded(nh->lane1), kdht_nh_folded(nh->lane2)};

	return joined;
}

/* The PRF's first word of a header tag. */
KDHT_INLINE __u64 kdht_header_context(const __u8 *at)
{
	__u64 first = kdht_read32(at) | (__u64)(kdht_read32(at + 4) & 0xffffff) << 32;

	return first | (__u64)KDHT_HEADER_PRF_LEN << 56;
}

/* What is left of a body: less than two whole pairs, and the last one, that has what is no whole pair, and zeros. */
KDHT_INLINE __u64 kdht_nh_rest(struct kdht_nh *nh, const struct kdht_key *key, const void *message, __u32 len, __u32 i)
{
	const __u8 *body = (const __u8 *)message + KDHT_HEADER_LEN;
	__u8 rest[2 * KDHT_PAIR] = {0};

	__builtin_memcpy(rest, body + KDHT_PAIR * i, len - KDHT_PAIR * i);
	kdht_nh_pair(nh, rest, key->body_words + 2 * i);
	if (i < len / KDHT_PAIR)
		kdht_nh_pair(nh, rest + KDHT_PAIR, key->body_words + 2 * (i + 1));
	return kdht_nh_end(nh, &key->body, kdht_body_context(message));
}

KDHT_INLINE __u64 kdht_sse2_header_tag(const struct kdht_key *key, const void *message)
{
	const __u8 *at = (const __u8 *)message;
	struct kdht_nh_sse2 nh = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
	struct kdht_nh joined;
	int i;

#pragma GCC unroll 8
	for (i = 0; i < KDHT_HEADER_PAIRS; i += 2)
		kdht_nh_two(&nh, at + KDHT_PAIR * (i + 1), key->header_words + 2 * i);
	joined = kdht_nh_joined(&nh);
	return kdht_nh_end(&joined, &key->header, kdht_header_context(at));
}

KDHT_INLINE __u64 kdht_sse2_body_tag(const struct kdht_key *key, const struct kdht_header *message, __u32 len)
{
	const __u8 *body = (const __u8 *)message + KDHT_HEADER_LEN;
	struct kdht_nh_sse2 nh = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
	struct kdht_nh joined;
	__u32 whole = len / KDHT_PAIR, i;

	if (kdht_is_padded(message->op, message->flags))
		return 0;
	for (i = 0; i + 1 < whole; i += 2)
		kdht_nh_two(&nh, body + KDHT_PAIR * i, key->body_words + 2 * i);
	joined = kdht_nh_joined(&nh);
	return kdht_nh_rest(&joined, key, message, len, i);
}

#endif
#endif
