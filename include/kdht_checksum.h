/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
 * Sums are of words as they lie in memory, so results are stored as they are, on
 * machines of either byte order.
 */
#ifndef KDHT_CHECKSUM_H
#define KDHT_CHECKSUM_H

#include <linux/types.h>

/* Adds `len` bytes to a running sum; an odd last byte counts as if a zero followed. */
static inline __u64 kdht_sum(const void *data, __u32 len, __u64 sum)
{
	const __u8 *at = (const __u8 *)data;
	__u32 word = 0;

	for (; len >= 4; at += 4, len -= 4) {
		__builtin_memcpy(&word, at, 4);
		sum += word;
	}
	word = 0;
	__builtin_memcpy(&word, at, len);
	return sum + word;
}

/* A sum that takes the same bytes out again: it adds the complement of each word. */
static inline __u64 kdht_sum_without(const void *data, __u32 len, __u64 sum)
{
	const __u8 *at = (const __u8 *)data;
	__u32 word;

	for (; len >= 4; at += 4, len -= 4) {
		__builtin_memcpy(&word, at, 4);
		sum += ~word;
	}
	return sum; /* `len` is a multiple of 4 */
}

static inline __u16 kdht_fold(__u64 sum)
{
	sum = (sum & 0xffffffffu) + (sum >> 32); /* at most 33 bits, then 18, 17 and 16 */
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	return (__u16)sum;
}

#endif
