/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Tags and cookies, as kdht/core/_tags.pyx has them. The header is read where it lies in the
 * packet, the body in the scratch. Global functions are verified once each.
 */
#ifndef KDHT_TAGS_H
#define KDHT_TAGS_H

#include "kdht_siphash.h"
#include "maps.h"

static __always_inline __u64 kdht_header_tag(const struct kdht_header *h, const struct kdht_key *key)
{
	const __u64 *words = (const void *)h;
	struct kdht_sip sip;

	kdht_sip_start(&sip, key->k0, key->k1);
	kdht_sip_word(&sip, words[0] & bpf_cpu_to_be64(0xffffffffffffff00ull)); /* hops taken as 0 */
#pragma unroll
	for (int i = 1; i < KDHT_TAGGED_LEN / 8; i++)
		kdht_sip_word(&sip, words[i]);
	return kdht_sip_end(&sip, (__u64)KDHT_TAGGED_LEN << 56);
}

__noinline __u64 kdht_body_tag(struct kdht_scratch *s, __u64 k0, __u64 k1)
{
	struct kdht_sip sip;
	__u32 len, i;
	const __u64 *words;

	if (!s)
		return 0;
	len = s->len;
	if (len > KDHT_MAX_BODY)
		return 0;
	words = (const __u64 *)s->body;
	kdht_sip_start(&sip, k0, k1);
	for (i = 0; i < KDHT_MAX_BODY / 8; i++) {
		if (8 * (i + 1) > len)
			break;
		kdht_sip_word(&sip, words[i]);
	}
	if (i > KDHT_MAX_BODY / 8)
		return 0;
	return kdht_sip_end(&sip, words[i] | (__u64)(len & 0xff) << 56);
}

__noinline __u64 kdht_cookie(__u64 ip_high, __u64 ip_low, __u64 slot, const struct kdht_key *key)
{
	struct kdht_sip sip;
	__u64 cookie;

	if (!key)
		return 0;
	kdht_sip_start(&sip, key->k0, key->k1);
	kdht_sip_word(&sip, ip_high);
	kdht_sip_word(&sip, ip_low);
	kdht_sip_word(&sip, bpf_cpu_to_be64(slot));
	cookie = kdht_sip_end(&sip, 24ull << 56);
	return cookie ? cookie : 1;
}

#endif
