/* SPDX-License-Identifier: Apache-2.0
 *
 * The tags of kdht_tags.h for the core, four pairs of words at once where the processor has AVX2. The processor is
 * asked when the tag is made, so one build runs on all of them. Without AVX2, SSE2 (nh_sse2.h) or the scalar functions.
 */
#ifndef KDHT_NH_AVX2_H
#define KDHT_NH_AVX2_H

#include "nh_sse2.h"

#define KDHT_SCALAR 0 /* the ways to make a tag */
#define KDHT_SSE2 1
#define KDHT_AVX2 2

#ifdef __SSE2__
#include <immintrin.h>

_Static_assert(KDHT_HEADER_PAIRS % 4 == 0, "pairs are taken by four");

#define KDHT_FOR_AVX2 static __attribute__((target("avx2")))

struct kdht_nh_avx2 {
	__m256i lane0, lane1, lane2; /* four sums each */
};

KDHT_FOR_AVX2 inline __m256i kdht_nh_products4(__m256i sums, __m256i words, const __u32 *key)
{
	__m256i added = _mm256_add_epi32(words, _mm256_loadu_si256((const __m256i *)key));

	return _mm256_add_epi64(sums, _mm256_mul_epu32(added, _mm256_srli_epi64(added, 32)));
}

/* As four calls of kdht_nh_pair. */
KDHT_FOR_AVX2 inline void kdht_nh_four(struct kdht_nh_avx2 *nh, const void *at, const __u32 *key)
{
	__m256i words = _mm256_loadu_si256((const __m256i *)at);

	nh->lane0 = kdht_nh_products4(nh->lane0, words, key);
	nh->lane1 = kdht_nh_products4(nh->lane1, words, key + 2);
	nh->lane2 = kdht_nh_products4(nh->lane2, words, key + 4);
}

KDHT_FOR_AVX2 inline __m128i kdht_nh_halved(__m256i sums)
{
	return _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

KDHT_FOR_AVX2 inline struct kdht_nh_sse2 kdht_nh_narrowed(const struct kdht_nh_avx2 *nh)
{
	struct kdht_nh_sse2 narrow = {kdht_nh_halved(nh->lane0), kdht_nh_halved(nh->lane1), kdht_nh_halved(nh->lane2)};

	return narrow;
}

KDHT_FOR_AVX2 __u64 kdht_avx2_header_tag(const struct kdht_key *key, const void *message)
{
	const __u8 *at = (const __u8 *)message;
	struct kdht_nh_avx2 nh = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
	struct kdht_nh_sse2 narrow;
	struct kdht_nh joined;
	int i;

#pragma GCC unroll 4
	for (i = 0; i < KDHT_HEADER_PAIRS; i += 4)
		kdht_nh_four(&nh, at + KDHT_PAIR * (i + 1), key->header_words + 2 * i);
	narrow = kdht_nh_narrowed(&nh);
	joined = kdht_nh_joined(&narrow);
	return kdht_nh_end(&joined, &key->header, kdht_header_context(at));
}

KDHT_FOR_AVX2 __u64 kdht_avx2_body_tag(const struct kdht_key *key, const struct kdht_header *message, __u32 len)
{
	const __u8 *body = (const __u8 *)message + KDHT_HEADER_LEN;
	struct kdht_nh_avx2 nh = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
	struct kdht_nh_sse2 narrow;
	struct kdht_nh joined;
	__u32 whole = len / KDHT_PAIR, i;

	if (kdht_is_padded(message->op, message->flags))
		return 0;
	for (i = 0; i + 3 < whole; i += 4)
		kdht_nh_four(&nh, body + KDHT_PAIR * i, key->body_words + 2 * i);
	narrow = kdht_nh_narrowed(&nh);
	if (i + 1 < whole) {
		kdht_nh_two(&narrow, body + KDHT_PAIR * i, key->body_words + 2 * i);
		i += 2;
	}
	joined = kdht_nh_joined(&narrow);
	return kdht_nh_rest(&joined, key, message, len, i);
}

/* The fastest way that this processor has. */
static inline int kdht_tag_way(void)
{
	return __builtin_cpu_supports("avx2") ? KDHT_AVX2 : KDHT_SSE2;
}
#else
static inline int kdht_tag_way(void)
{
	return KDHT_SCALAR;
}
#endif

/* The tags, made in a way that this processor has. */
KDHT_INLINE __u64 kdht_header_tag_by(int way, const struct kdht_key *key, const void *message)
{
#ifdef __SSE2__
	if (way == KDHT_AVX2)
		return kdht_avx2_header_tag(key, message);
	if (way == KDHT_SSE2)
		return kdht_sse2_header_tag(key, message);
#endif
	(void)way;
	return kdht_header_tag(key, message);
}

KDHT_INLINE __u64 kdht_body_tag_by(int way, const struct kdht_key *key, const struct kdht_header *message, __u32 len)
{
#ifdef __SSE2__
	if (way == KDHT_AVX2)
		return kdht_avx2_body_tag(key, message, len);
	if (way == KDHT_SSE2)
		return kdht_sse2_body_tag(key, message, len);
#endif
	(void)way;
	return kdht_body_tag(key, message, len);
}

#endif
