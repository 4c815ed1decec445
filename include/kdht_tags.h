/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Header tag and body tag: NH with three lanes (Black and others, "UMAC: Fast and secure message
 * authentication", 1999), then SipHash-2-4 over the lanes and a few bytes of the header. User space and BPF
 * share it; docs/design/tags.md says why, tests/core/test_tags.py holds it against a slow implementation.
 */
#ifndef KDHT_TAGS_SHARED_H
#define KDHT_TAGS_SHARED_H

#include "kdht_shared.h"
#include "kdht_siphash.h"

/* The lengths of SipHash's inputs differ: tags of one kind are none of another, even under equal keys. */
#define KDHT_HEADER_PRF_LEN 31 /* lanes, then the message's bytes 0 to 6 */
#define KDHT_BODY_PRF_LEN 30   /* lanes, then the request ID's last 4 bytes, then the body length */
#define KDHT_COOKIE_PRF_LEN 24

#define KDHT_PAIR 8 /* bytes: NH takes two words of 32 bits at a time */

struct kdht_nh {
	__u64 lane0, lane1, lane2;
};

KDHT_INLINE __u32 kdht_read32(const void *at)
{
	__u32 word;

#ifdef __bpf__
	word = *(const __u32 *)at; /* clang would copy byte by byte */
#else
	__builtin_memcpy(&word, at, sizeof(word));
#endif
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap32(word);
#endif
	return word;
}

/*
 * One pair of words. All lanes have the same key words, each lane two further on (a Toeplitz matrix): so they
 * collide independently, and the key is hardly longer than for one lane. `key`: the first lane's words.
 */
KDHT_INLINE void kdht_nh_pair(struct kdht_nh *nh, const void *at, const __u32 *key)
{
	__u32 low = kdht_read32(at), high = kdht_read32((const __u8 *)at + 4);

	nh->lane0 += (__u64)(low + key[0]) * (high + key[1]);
	nh->lane1 += (__u64)(low + key[2]) * (high + key[3]);
	nh->lane2 += (__u64)(low + key[4]) * (high + key[5]);
#ifdef __bpf__
	/* Else clang reads all pairs before the first product, and has no room to keep them: 512 bytes of stack. */
	asm volatile("" : "+r"(nh->lane0), "+r"(nh->lane1), "+r"(nh->lane2));
#endif
}

/* `last`: the bytes behind the lanes, little-endian, and the length of SipHash's input on top. */
KDHT_INLINE __u64 kdht_nh_end(const struct kdht_nh *nh, const struct kdht_sip_key *key, __u64 last)
{
	struct kdht_sip sip;

	kdht_sip_start(&sip, key->k0, key->k1);
	kdht_sip_word(&sip, nh->lane0);
	kdht_sip_word(&sip, nh->lane1);
	kdht_sip_word(&sip, nh->lane2);
	return kdht_sip_end(&sip, last);
}

/* Bytes 0 to 6 go to SipHash, 8 to 103 to NH. `hops`, byte 7, is in neither: it changes at every node. */
KDHT_INLINE __u64 kdht_header_tag(const struct kdht_key *key, const void *message)
{
	const __u8 *at = (const __u8 *)message;
	struct kdht_nh nh = {0, 0, 0};
	__u64 first = kdht_read32(at) | (__u64)(kdht_read32(at + 4) & 0xffffff) << 32;
	int i;

#ifdef __clang__
#pragma unroll
#endif
	for (i = 0; i < KDHT_HEADER_PAIRS; i++)
		kdht_nh_pair(&nh, at + KDHT_PAIR * (i + 1), key->header_words + 2 * i);
	return kdht_nh_end(&nh, &key->header, first | (__u64)KDHT_HEADER_PRF_LEN << 56);
}

/* What binds a body tag to its message: part of the request ID, and the body length. */
KDHT_INLINE __u64 kdht_body_context(const void *message)
{
	const __u8 *at = (const __u8 *)message;

	return kdht_read32(at + 12) | (__u64)(kdht_read32(at + 36) >> 16) << 32 | (__u64)KDHT_BODY_PRF_LEN << 56;
}

/* Such a body means nothing but its length. Its body tag is 0: no node reads it. */
KDHT_INLINE int kdht_is_padded(__u8 op, __u8 flags)
{
	return !(flags & (KDHT_FLAG_REPLY | KDHT_FLAG_PROVEN)) &&
	       (op == KDHT_OP_GET || op == KDHT_OP_QUORUM_GET || op == KDHT_OP_TRACE);
}

#ifndef __bpf__ /* BPF walks its packets with bounds of its own. */

/* The tag of a body of any op, padding too. `len`: at most KDHT_MAX_BODY bytes behind the header. */
KDHT_INLINE __u64 kdht_body_hash(const struct kdht_key *key, const void *message, __u32 len)
{
	const __u8 *body = (const __u8 *)message + KDHT_HEADER_LEN;
	__u8 rest[KDHT_PAIR] = {0};
	struct kdht_nh nh = {0, 0, 0};
	__u32 whole = len / KDHT_PAIR, i;

	for (i = 0; i < whole; i++)
		kdht_nh_pair(&nh, body + KDHT_PAIR * i, key->body_words + 2 * i);
	__builtin_memcpy(rest, body + KDHT_PAIR * whole, len % KDHT_PAIR);
	/* Always one pair more: so the lanes of an empty body are secret too. */
	kdht_nh_pair(&nh, rest, key->body_words + 2 * whole);
	return kdht_nh_end(&nh, &key->body, kdht_body_context(message));
}

KDHT_INLINE __u64 kdht_body_tag(const struct kdht_key *key, const struct kdht_header *message, __u32 len)
{
	return kdht_is_padded(message->op, message->flags) ? 0 : kdht_body_hash(key, message, len);
}

/* From the KDHT_TAG_KEY_LEN bytes that kdht/wire/keys.py derives. */
KDHT_INLINE void kdht_read_key(struct kdht_key *key, const __u8 *at)
{
	int i;

	key->header.k0 = kdht_sip_read(at);
	key->header.k1 = kdht_sip_read(at + 8);
	key->body.k0 = kdht_sip_read(at + 16);
	key->body.k1 = kdht_sip_read(at + 24);
	for (i = 0, at += 32; i < KDHT_HEADER_KEY_WORDS; i++, at += 4)
		key->header_words[i] = kdht_read32(at);
	for (i = 0; i < KDHT_BODY_KEY_WORDS; i++, at += 4)
		key->body_words[i] = kdht_read32(at);
}

#endif
#endif
