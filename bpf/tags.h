/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Tags and cookies, as kdht/core/_tags.pyx has them. The header is read where it lies in the
 * packet, the body in the scratch. Global functions are verified once each.
 */
#ifndef KDHT_TAGS_H
#define KDHT_TAGS_H

#include "kdht_tags.h"
#include "maps.h"

/* The tag of the body in the scratch; zeros follow it. `context`: from kdht_body_context. */
__noinline __u64 kdht_body_hash(struct kdht_scratch *s, const struct kdht_key *key, __u64 context)
{
	struct kdht_nh nh = {0, 0, 0};
	__u32 whole, i;

	if (!s || !key)
		return 0;
	whole = s->len / KDHT_PAIR;
	for (i = 0; i < KDHT_BODY_PAIRS; i++) {
		kdht_nh_pair(&nh, s->body + KDHT_PAIR * i, key->body_words + 2 * i);
		if (i >= whole)
			break;
	}
	return kdht_nh_end(&nh, &key->body, context);
}

__noinline __u64 kdht_cookie(__u64 ip_high, __u64 ip_low, __u64 slot, const struct kdht_sip_key *key)
{
	struct kdht_sip sip;
	__u64 cookie;

	if (!key)
		return 0;
	kdht_sip_start(&sip, key->k0, key->k1);
	kdht_sip_word(&sip, ip_high);
	kdht_sip_word(&sip, ip_low);
	kdht_sip_word(&sip, bpf_cpu_to_be64(slot));
	cookie = kdht_sip_end(&sip, (__u64)KDHT_COOKIE_PRF_LEN << 56);
	return cookie ? cookie : 1;
}

#endif
