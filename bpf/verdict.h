/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The verdict on a message, check by check as in kdht/core/_message.pyx: `kdht_plan_message`
 * changes nothing, `kdht_apply` rewrites the header of what goes on.
 */
#ifndef KDHT_VERDICT_H
#define KDHT_VERDICT_H

#include "parse.h"
#include "table.h"
#include "tags.h"

static __always_inline const struct kdht_key *kdht_key_of(const struct kdht_config *config, __u8 epoch)
{
#pragma unroll
	for (int i = 0; i < KDHT_KEY_SLOTS; i++)
		if (config->keys[i].valid && config->keys[i].epoch == epoch)
			return &config->keys[i];
	return 0;
}

static __always_inline __u64 kdht_cookie_of(const struct kdht_plan *p, struct kdht_ip128 ip, __u64 slot)
{
	struct kdht_sip_key key = p->config->cookie;

	return kdht_cookie(ip.high, ip.low, slot, &key);
}

static __always_inline int kdht_is_proven(const struct kdht_plan *p)
{
	__u64 slot = p->s->now >> KDHT_COOKIE_SLOT_BITS;
	__u64 shown = bpf_be64_to_cpu(KDHT_AT(__be64, p->h, cookie));

	if (!shown)
		return 0;
	if (shown == kdht_cookie_of(p, p->f->source, slot) ||
	    (slot && shown == kdht_cookie_of(p, p->f->source, slot - 1)))
		return 1;
	return shown == kdht_cookie_of(p, p->f->source, slot + 1); /* the clock of its maker may be ahead */
}

/* The reason to drop bytes that are not a message. The magic was checked before. */
static __always_inline int kdht_check_form(const struct kdht_header *h, __u32 length)
{
	__u32 body_len = bpf_ntohs(KDHT_AT(__be16, h, body_len));

	if (h->version != KDHT_VERSION)
		return KDHT_REASON_BAD_VERSION;
	if (length > KDHT_MAX_DATAGRAM || body_len > KDHT_MAX_BODY)
		return KDHT_REASON_TOO_LONG;
	if (KDHT_HEADER_LEN + body_len != length)
		return KDHT_REASON_BAD_LENGTH;
	if (h->flags & ~KDHT_KNOWN_FLAGS)
		return KDHT_REASON_BAD_FLAGS;
	if (h->flags & KDHT_REQUEST_FLAGS && (h->flags & KDHT_FLAG_REPLY || h->op > KDHT_LAST_ROUTED_OP))
		return KDHT_REASON_BAD_FLAGS;
	if (h->op >= KDHT_FIRST_ROUTED_OP && h->op <= KDHT_LAST_ROUTED_OP)
		return KDHT_GO_ON;
	if (h->op >= KDHT_FIRST_CONTROL_OP && h->op <= KDHT_LAST_CONTROL_OP)
		return KDHT_GO_ON;
	return KDHT_REASON_BAD_OP;
}

/* Whether fields of the entry node are set: time to client_port, both addresses, and single fields. */
static __always_inline __u64 kdht_filled(const struct kdht_header *h)
{
	return KDHT_AT(__u64, h, time) | KDHT_AT(__u64, h, client_ip) | KDHT_AT(__u64, h, client_ip[8]) |
	       KDHT_AT(__u64, h, entry_ip) | KDHT_AT(__u64, h, entry_ip[8]) | KDHT_AT(__u64, h, body_tag) |
	       KDHT_AT(__u64, h, header_tag) | KDHT_AT(__u32, h, reserved2) | KDHT_AT(__u16, h, entry_port) |
	       h->status;
}

static __always_inline int kdht_is_write(const struct kdht_header *h)
{
	return KDHT_IS_WRITE(h->op);
}

/* Whether its address may send this request. Without a table (nothing is published yet) nobody may. */
static __always_inline int kdht_is_allowed(const struct kdht_plan *p)
{
	struct kdht_prefix key = {.bits = 128};
	__u32 zero = 0, *rights = 0;
	void *trie;

	if (!(p->config->flags & KDHT_CONFIG_PREFIXES))
		return 1;
	((__u64 *)key.ip)[0] = p->f->source.high;
	((__u64 *)key.ip)[1] = p->f->source.low;
	trie = bpf_map_lookup_elem(&kdht_prefixes, &zero);
	if (trie)
		rights = bpf_map_lookup_elem(trie, &key);
	return rights && *rights & (kdht_is_write(p->h) ? KDHT_MAY_WRITE : KDHT_MAY_READ);
}

static __always_inline int kdht_needs_cookie(const struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;

	return h->op == KDHT_OP_WATCH || (p->config->flags & KDHT_CONFIG_WRITE_COOKIE && kdht_is_write(h));
}

static __always_inline int kdht_check_client(struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;
	__u32 takes = bpf_ntohs(KDHT_AT(__be16, h, max_reply)), sent = bpf_ntohs(KDHT_AT(__be16, h, body_len));
	int needs = kdht_needs_cookie(p);

	if (h->flags & KDHT_FLAG_REPLY || h->op > KDHT_LAST_ROUTED_OP)
		return KDHT_REASON_BAD_FLAGS;
	if (kdht_filled(h))
		return KDHT_REASON_FORGED_ORIGIN;
	if (!p->f->source_port)
		return KDHT_REASON_BAD_ADDRESS;
	if (!kdht_is_allowed(p))
		return KDHT_REASON_NOT_ALLOWED;
	p->way->hops = h->hops;
	if (!p->way->hops || p->way->hops > p->config->hop_limit)
		p->way->hops = p->config->hop_limit;
	if (!takes || takes > KDHT_MAX_BODY)
		takes = KDHT_MAX_BODY;
	if ((needs || (takes > sent && p->config->flags & KDHT_CONFIG_COOKIES)) && !kdht_is_proven(p)) {
		if (needs)
			return KDHT_REASON_NEEDS_COOKIE;
		takes = sent;
	}
	p->way->max_reply = takes;
	return KDHT_GO_ON;
}

static __always_inline int kdht_check_member(struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;
	const struct kdht_key *key;
	__u32 age = p->s->now - bpf_ntohl(KDHT_AT(__be32, h, time));

	if (h->reserved1 || KDHT_AT(__u32, h, reserved2))
		return KDHT_REASON_BAD_FLAGS;
	if (!(p->config->flags & KDHT_CONFIG_UNTAGGED)) {
		key = kdht_key_of(p->config, h->epoch);
		if (!key)
			return KDHT_REASON_BAD_EPOCH;
		if (kdht_header_tag(key, h) != bpf_be64_to_cpu(KDHT_AT(__be64, h, header_tag)))
			return KDHT_REASON_BAD_TAG;
	}
	if (age > p->config->window && -age > p->config->window)
		return KDHT_REASON_STALE;
	if (!h->hops)
		return KDHT_REASON_HOP_LIMIT;
	p->way->hops = h->hops;
	return KDHT_GO_ON;
}

/* Copy the body to the scratch, with zeros behind it. A global function: the verifier checks it once. */
__noinline int kdht_load(struct xdp_md *ctx, __u32 at, __u32 len, struct kdht_scratch *s)
{
	__u32 last = len - 1;

	if (!s || len > KDHT_MAX_BODY)
		return -1;
	s->len = len;
	/* Linux 6.1 does not learn from `len != 0` that there is a byte to read. A bound from above says so. The barrier
	 * hides the relation to `len`, or the compiler would check that instead. */
	barrier_var(last);
	if (last < KDHT_MAX_BODY && bpf_xdp_load_bytes(ctx, at, s->body, last + 1))
		return -1;
	__builtin_memset(s->body + len, 0, 8);
	return 0;
}

static __always_inline __u32 kdht_body_at(const struct kdht_plan *p)
{
	return p->f->ip + p->f->udp + sizeof(struct udphdr) + KDHT_HEADER_LEN;
}

static __always_inline int kdht_load_body(struct kdht_plan *p)
{
	return kdht_load(p->ctx, kdht_body_at(p), bpf_ntohs(KDHT_AT(__be16, p->h, body_len)), p->s);
}

/* The body tag that is right; -1: the body is not there. */
static __always_inline int kdht_body_tag(struct kdht_plan *p, const struct kdht_key *key, __u64 *tag)
{
	const struct kdht_header *h = p->h;

	*tag = 0;
	if (kdht_is_padded(h->op, h->flags))
		return 0;
	if (kdht_body_hash(p->ctx, p->s, key, kdht_body_at(p), kdht_body_context(h)))
		return -1;
	*tag = p->s->body_tag;
	return 0;
}

static __always_inline int kdht_ends_here(struct kdht_plan *p, int reason)
{
	const struct kdht_key *key;
	__u64 right;

	if (!p->way->forwarded || p->config->flags & KDHT_CONFIG_UNTAGGED)
		return reason;
	key = kdht_key_of(p->config, p->h->epoch);
	if (!key || kdht_body_tag(p, key, &right))
		return KDHT_REASON_BAD_BODY_TAG;
	return right == bpf_be64_to_cpu(KDHT_AT(__be64, p->h, body_tag)) ? reason : KDHT_REASON_BAD_BODY_TAG;
}

static __always_inline int kdht_plan_relay(struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;
	__be16 client_port = KDHT_AT(__be16, h, client_port), entry_port = KDHT_AT(__be16, h, entry_port);
	int reason;

	p->way->source = kdht_ip_at(h->entry_ip);
	p->way->target = kdht_ip_at(h->client_ip);
	if (entry_port != p->config->port || !kdht_is_own(p->config, p->way->source))
		return KDHT_REASON_NOT_ENTRY;
	if (!client_port || !kdht_is_unicast(p->way->target))
		return KDHT_REASON_BAD_ADDRESS;
	reason = kdht_ends_here(p, KDHT_REASON_RELAYED);
	if (reason != KDHT_REASON_RELAYED)
		return reason;
	if (kdht_is_ipv4(p->way->target) != (p->f->version == 4) || kdht_is_ipv4(p->way->source) != (p->f->version == 4))
		return KDHT_REASON_FAMILY;
	p->way->source_port = entry_port;
	p->way->target_port = client_port;
	return KDHT_REASON_RELAYED;
}

static __always_inline int kdht_plan_forward(struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;
	struct kdht_walk *walk = &p->s->walk;
	int reason = kdht_quick_hop(p->config, h, walk) ? KDHT_REASON_NEXT_HOP : kdht_next_hop(p->config, h, walk);

	if (reason == KDHT_REASON_NOT_READY)
		return reason;
	if (reason != KDHT_REASON_NEXT_HOP)
		return kdht_ends_here(p, reason);
	if (p->way->hops <= 1)
		return h->op == KDHT_OP_TRACE ? kdht_ends_here(p, KDHT_REASON_TRACE_ENDS) : KDHT_REASON_HOP_LIMIT;
	p->way->target = walk->ip;
	p->way->source = kdht_ip_at(p->f->version == 4 ? p->config->source4 : p->config->source6);
	if (kdht_is_ipv4(p->way->target) != (p->f->version == 4) || !(p->way->source.high || p->way->source.low))
		return KDHT_REASON_FAMILY;
	p->way->source_port = p->config->port;
	p->way->target_port = walk->port;
	return p->way->forwarded ? KDHT_REASON_NEXT_HOP : KDHT_REASON_ENTERED;
}

static __always_inline int kdht_plan_message(struct kdht_plan *p)
{
	const struct kdht_header *h = p->h;
	int bad = kdht_check_form(h, p->f->message_len);

	if (bad != KDHT_GO_ON)
		return bad;
	p->way->forwarded = h->flags & KDHT_FLAG_FORWARDED;
	bad = p->way->forwarded ? kdht_check_member(p) : kdht_check_client(p);
	if (bad != KDHT_GO_ON)
		return bad;
	if (h->op > KDHT_LAST_ROUTED_OP)
		return kdht_ends_here(p, KDHT_REASON_CONTROL);
	if (h->flags & KDHT_FLAG_REPLY)
		return kdht_plan_relay(p);
	return kdht_plan_forward(p);
}

static __always_inline void kdht_put_ip(void *at, struct kdht_ip128 ip)
{
	((__u64 *)at)[0] = ip.high;
	((__u64 *)at)[1] = ip.low;
}

/* The 32-bit words of a word of 64 bits, added up. */
static __always_inline __u64 kdht_halves(__u64 word)
{
	return (word & 0xffffffff) + (word >> 32);
}

/* Write both tags. Gives the sum of what was written. */
static __always_inline __u64 kdht_sign(struct kdht_plan *p, const struct kdht_key *key)
{
	struct kdht_header *h = p->h;
	__u64 body, header;

	if (p->config->flags & KDHT_CONFIG_UNTAGGED || kdht_body_tag(p, key, &body))
		return 0;
	KDHT_AT(__be64, h, body_tag) = body = bpf_cpu_to_be64(body);
	KDHT_AT(__be64, h, header_tag) = header = bpf_cpu_to_be64(kdht_header_tag(key, h));
	return kdht_halves(body) + kdht_halves(header);
}

/* Two fields of 16 bits, as they lie in memory, little-endian. */
static __always_inline __u32 kdht_pair_of(__be16 first, __be16 second)
{
	return (__u32)first | (__u32)second << 16;
}

/*
 * Fill in a client's request. The header tag is made of words of 32 bits, so they are written whole: a processor waits
 * where it reads a word that was just written in pieces.
 */
static __always_inline __u64 kdht_enter(struct kdht_plan *p)
{
	struct kdht_header *h = p->h;
	const struct kdht_key *key = &p->config->keys[0];
	__be16 max_reply = bpf_htons(p->way->max_reply);
	__be32 time = bpf_htonl(p->s->now);
	__u64 change = (__u64)time + key->epoch + max_reply - KDHT_AT(__be16, h, max_reply) - kdht_two(&h->cookie);

	kdht_put_ip(h->client_ip, p->f->source);
	kdht_put_ip(h->entry_ip, p->f->target);
	KDHT_AT(__be32, h, time) = time;
	KDHT_AT(__u32, h, epoch) = kdht_pair_of(key->epoch, p->f->source_port); /* reserved1 is 0 */
	KDHT_AT(__u32, h, entry_port) = kdht_pair_of(p->f->target_port, max_reply);
	KDHT_AT(__be64, h, cookie) = 0;
	return change + kdht_sign(p, key);
}

/* Take out of a reply what members filled in, and give the client a cookie. */
static __always_inline __u64 kdht_strip(struct kdht_plan *p)
{
	struct kdht_header *h = p->h;
	const struct kdht_ip128 none = {0, 0};
	__be64 cookie = bpf_cpu_to_be64(
		kdht_cookie_now(p->way->target, p->s->now >> KDHT_COOKIE_SLOT_BITS, &p->config->cookie));
	__u64 change = kdht_halves(cookie) - kdht_two(&h->cookie) - KDHT_AT(__u32, h, time) - h->epoch -
		       KDHT_AT(__u16, h, max_reply) - kdht_two(&h->body_tag) - kdht_two(&h->header_tag);

	KDHT_AT(__be64, h, cookie) = cookie;
	kdht_put_ip(h->client_ip, none);
	kdht_put_ip(h->entry_ip, none);
	KDHT_AT(__u64, h, time) = 0; /* and epoch and client_port; reserved1 is 0 */
	KDHT_AT(__u32, h, entry_port) = 0; /* and max_reply */
	KDHT_AT(__be64, h, body_tag) = KDHT_AT(__be64, h, header_tag) = 0;
	return change;
}

/* Rewrite the message. Gives the change of the sum of its words, without the addresses and ports in it. */
static __always_inline __u64 kdht_apply(struct kdht_plan *p, int reason)
{
	struct kdht_header *h = p->h;
	__u32 before = KDHT_AT(__u32, h, version), after;

	if (reason == KDHT_REASON_RELAYED)
		return kdht_strip(p);
	after = (before & 0xffffff) | (__u32)(__u8)(p->way->hops - 1) << 24;
	if (reason == KDHT_REASON_ENTERED)
		after |= KDHT_FLAG_FORWARDED << 16;
	KDHT_AT(__u32, h, version) = after; /* version, op, flags and hops */
	return (__u64)after - before + (reason == KDHT_REASON_ENTERED ? kdht_enter(p) : 0);
}

#endif
