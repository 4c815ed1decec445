/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Tags and cookies, as kdht/core/_tags.pyx has them, of the packet where it lies. Global functions are verified once
 * each.
 */
#ifndef KDHT_TAGS_H
#define KDHT_TAGS_H

#include "kdht_tags.h"
#include "maps.h"

#define KDHT_COOKIES_BITS 10

/* Where the body begins, at most: bounds for the verifier. */
#define KDHT_BODY_AT_MASK 0xff

static __always_inline __u32 kdht_body_len(__u64 context)
{
	return bpf_ntohs((__u16)(context >> 32));
}

/*
 * Write the tag of the body that begins at `at` to the scratch. -1: it is not there. The body is read where it lies in
 * the packet. `context`: from kdht_body_context, so it has the body's length.
 */
__noinline int kdht_body_hash(struct xdp_md *ctx, struct kdht_scratch *s, const struct kdht_key *key, __u32 at,
			      __u64 context)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *body;
	__u32 whole = kdht_body_len(context) / KDHT_PAIR, over, i;
	struct kdht_nh nh = {0, 0, 0};
	__u64 last = 0;

	at &= KDHT_BODY_AT_MASK;
	if (!s || !key || at < KDHT_PAIR)
		return -1;
	body = data + at;
	for (i = 0; i < KDHT_BODY_PAIRS - 1; i++) {
		if (i >= whole)
			break;
		if (body + KDHT_PAIR * (i + 1) > end)
			return -1;
		kdht_nh_pair(&nh, body + KDHT_PAIR * i, key->body_words + 2 * i);
	}
	/* Anew: what the loop says about `whole` would make another state of each length for the verifier. */
	barrier_var(context);
	whole = kdht_body_len(context) / KDHT_PAIR;
	over = kdht_body_len(context) % KDHT_PAIR;
	at += KDHT_PAIR * whole - (KDHT_PAIR - over); /* the last 8 bytes, and perhaps some of the header */
	barrier_var(at); /* else the compiler adds the parts up in another order, and the verifier knows no bounds */
	barrier_var(whole);
	if (whole >= KDHT_BODY_PAIRS || at > KDHT_BODY_AT_MASK + KDHT_MAX_BODY || data + at + KDHT_PAIR > end)
		return -1;
	if (over)
		last = *(__u64 *)(data + at) >> 8 * (KDHT_PAIR - over);
	kdht_nh_pair(&nh, &last, key->body_words + 2 * whole);
	s->body_tag = kdht_nh_end(&nh, &key->body, context);
	return 0;
}

/* A cookie that was made, and of what. */
struct kdht_made_cookie {
	struct kdht_ip128 ip;
	struct kdht_sip_key key;
	__u64 slot;
	__u64 cookie;
};

/* Each CPU's last ones, by a hash of the address: a cookie is one SipHash, 40 ns here, and stays the same for 128 seconds. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << KDHT_COOKIES_BITS);
	__type(key, __u32);
	__type(value, struct kdht_made_cookie);
} kdht_cookies SEC(".maps");

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

/* The same for the slot of now, from the CPU's last ones if it is there. */
static __always_inline __u64 kdht_cookie_now(struct kdht_ip128 ip, __u64 slot, const struct kdht_sip_key *secret)
{
	struct kdht_sip_key key = *secret;
	__u32 index = (ip.low ^ ip.high) * 0x9e3779b97f4a7c15ull >> (64 - KDHT_COOKIES_BITS);
	struct kdht_made_cookie *made = bpf_map_lookup_elem(&kdht_cookies, &index);
	__u64 cookie;

	if (made && made->ip.low == ip.low && made->ip.high == ip.high && made->slot == slot && made->key.k0 == key.k0 &&
	    made->key.k1 == key.k1)
		return made->cookie;
	cookie = kdht_cookie(ip.high, ip.low, slot, &key);
	if (made)
		*made = (struct kdht_made_cookie){.ip = ip, .key = key, .slot = slot, .cookie = cookie};
	return cookie;
}

#endif
