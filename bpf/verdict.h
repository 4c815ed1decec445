/* SPDX-License-Identifier: Apache-2.0
 *
 * The verdict on a message, check by check as in kdht/_routing.pyx, over the scratch copy:
 * `kdht_plan` changes nothing, `kdht_apply` rewrites the header of what goes on.
 */
#ifndef KDHT_VERDICT_H
#define KDHT_VERDICT_H

#include "parse.h"
#include "table.h"
#include "tags.h"

struct kdht_plan {
	const struct kdht_config *config;
	struct kdht_scratch *s;
	struct kdht_frame *f;
	__u32 now;
	__u8 hops;
	__u8 forwarded;
};

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
	struct kdht_key key = p->config->cookie;

	return kdht_cookie(ip.high, ip.low, slot, &key);
}

static __always_inline int kdht_is_proven(const struct kdht_plan *p)
{
	__u64 slot = p->now >> KDHT_COOKIE_SLOT_BITS;
	__u64 shown = bpf_be64_to_cpu(p->s->header.cookie);

	if (!(p->config->flags & KDHT_CONFIG_COOKIES))
		return 1;
	if (!shown)
		return 0;
	return shown == kdht_cookie_of(p, p->f->source, slot) ||
	       (slot && shown == kdht_cookie_of(p, p->f->source, slot - 1));
}

/* The reason to drop what cannot be a message; the magic was seen already. */
static __always_inline int kdht_check_form(const struct kdht_header *h, __u32 length)
{
	if (h->version != KDHT_VERSION)
		return KDHT_REASON_BAD_VERSION;
	if (length > KDHT_MAX_DATAGRAM || bpf_ntohs(h->body_len) > KDHT_MAX_BODY)
		return KDHT_REASON_TOO_LONG;
	if (KDHT_HEADER_LEN + (__u32)bpf_ntohs(h->body_len) != length)
		return KDHT_REASON_BAD_LENGTH;
	if (h->flags & ~KDHT_KNOWN_FLAGS)
		return KDHT_REASON_BAD_FLAGS;
	if (h->op >= KDHT_FIRST_ROUTED_OP && h->op <= KDHT_LAST_ROUTED_OP)
		return KDHT_GO_ON;
	if (h->op >= KDHT_FIRST_CONTROL_OP && h->op <= KDHT_LAST_CONTROL_OP)
		return KDHT_GO_ON;
	return KDHT_REASON_BAD_OP;
}

static __always_inline int kdht_check_client(struct kdht_plan *p)
{
	const struct kdht_header *h = &p->s->header;
	struct kdht_ip128 client = kdht_ip_at(h->client_ip), entry = kdht_ip_at(h->entry_ip);
	__u32 takes = bpf_ntohs(h->max_reply), sent = bpf_ntohs(h->body_len);

	if (h->flags & KDHT_FLAG_REPLY || h->op > KDHT_LAST_ROUTED_OP)
		return KDHT_REASON_BAD_FLAGS;
	if (h->status || h->time || h->epoch || h->reserved1 || h->client_port || h->entry_port ||
	    h->reserved2 || h->body_tag || h->header_tag || client.high || client.low || entry.high || entry.low)
		return KDHT_REASON_FORGED_ORIGIN;
	if (!kdht_may_be_answered(p->f->source, p->f->source_port))
		return KDHT_REASON_BAD_ADDRESS;
	p->hops = h->hops;
	if (!p->hops || p->hops > p->config->hop_limit)
		p->hops = p->config->hop_limit;
	if (!takes || takes > KDHT_MAX_BODY)
		takes = KDHT_MAX_BODY;
	if (takes > sent && !kdht_is_proven(p))
		takes = sent;
	p->s->out.max_reply = takes;
	return KDHT_GO_ON;
}

static __always_inline int kdht_check_member(struct kdht_plan *p)
{
	const struct kdht_header *h = &p->s->header;
	const struct kdht_key *key;
	__u32 age = p->now - bpf_ntohl(h->time);

	if (h->reserved1 || h->reserved2)
		return KDHT_REASON_BAD_FLAGS;
	if (!(p->config->flags & KDHT_CONFIG_UNTAGGED)) {
		key = kdht_key_of(p->config, h->epoch);
		if (!key)
			return KDHT_REASON_BAD_EPOCH;
		if (kdht_header_tag(p->s, key->k0, key->k1) != bpf_be64_to_cpu(h->header_tag))
			return KDHT_REASON_BAD_TAG;
	}
	if (age > p->config->window && -age > p->config->window)
		return KDHT_REASON_STALE;
	if (!h->hops)
		return KDHT_REASON_HOP_LIMIT;
	p->hops = h->hops;
	return KDHT_GO_ON;
}

/* The body into the scratch, zeros behind it. Global: verified once, with bounds of its own. */
__noinline int kdht_load(struct xdp_md *ctx, __u32 at, __u32 len, struct kdht_scratch *s)
{
	if (!s || len > KDHT_MAX_BODY)
		return -1;
	if (len && bpf_xdp_load_bytes(ctx, at, s->body, len))
		return -1;
	__builtin_memset(s->body + len, 0, 8);
	return 0;
}

static __always_inline int kdht_load_body(struct kdht_plan *p)
{
	__u32 at = p->f->ip + p->f->udp + sizeof(struct udphdr) + KDHT_HEADER_LEN;

	return kdht_load(p->f->ctx, at, bpf_ntohs(p->s->header.body_len), p->s);
}

static __always_inline int kdht_ends_here(struct kdht_plan *p, int reason)
{
	const struct kdht_key *key;

	if (!p->forwarded || p->config->flags & KDHT_CONFIG_UNTAGGED)
		return reason;
	key = kdht_key_of(p->config, p->s->header.epoch);
	if (!key || kdht_load_body(p))
		return KDHT_REASON_BAD_BODY_TAG;
	if (kdht_body_tag(p->s, key->k0, key->k1) != bpf_be64_to_cpu(p->s->header.body_tag))
		return KDHT_REASON_BAD_BODY_TAG;
	return reason;
}

static __always_inline int kdht_plan_relay(struct kdht_plan *p)
{
	const struct kdht_header *h = &p->s->header;
	struct kdht_outcome *out = &p->s->out;
	struct kdht_ip128 client = kdht_ip_at(h->client_ip), entry = kdht_ip_at(h->entry_ip);
	int reason;

	if (h->entry_port != p->config->port || !kdht_is_own(p->config, entry))
		return KDHT_REASON_NOT_ENTRY;
	if (!kdht_may_be_answered(client, h->client_port))
		return KDHT_REASON_BAD_ADDRESS;
	reason = kdht_ends_here(p, KDHT_REASON_RELAYED);
	if (reason != KDHT_REASON_RELAYED)
		return reason;
	if (kdht_is_ipv4(client) != (p->f->version == 4) || kdht_is_ipv4(entry) != (p->f->version == 4))
		return KDHT_REASON_FAMILY;
	__builtin_memcpy(out->source_ip, h->entry_ip, 16);
	__builtin_memcpy(out->target_ip, h->client_ip, 16);
	out->source_port = h->entry_port;
	out->target_port = h->client_port;
	return KDHT_REASON_RELAYED;
}

static __always_inline int kdht_plan_forward(struct kdht_plan *p)
{
	const struct kdht_header *h = &p->s->header;
	struct kdht_outcome *out = &p->s->out;
	struct kdht_walk walk;
	struct kdht_ip128 hop, source;
	int reason = kdht_next_hop(p->config, h, &walk);

	if (reason != KDHT_REASON_NEXT_HOP)
		return kdht_ends_here(p, reason);
	if (p->hops <= 1)
		return h->op == KDHT_OP_TRACE ? kdht_ends_here(p, KDHT_REASON_TRACE_ENDS) : KDHT_REASON_HOP_LIMIT;
	hop = walk.ip;
	source = kdht_ip_at(p->f->version == 4 ? p->config->source4 : p->config->source6);
	if (kdht_is_ipv4(hop) != (p->f->version == 4) || !(source.high || source.low))
		return KDHT_REASON_FAMILY;
	__builtin_memcpy(out->source_ip, &source, 16);
	__builtin_memcpy(out->target_ip, &hop, 16);
	out->source_port = p->config->port;
	out->target_port = walk.port;
	return p->forwarded ? KDHT_REASON_NEXT_HOP : KDHT_REASON_ENTERED;
}

static __always_inline int kdht_plan_message(struct kdht_plan *p)
{
	const struct kdht_header *h = &p->s->header;
	__u32 at = p->f->ip + p->f->udp + sizeof(struct udphdr);
	int bad;

	if (p->f->message_len < KDHT_HEADER_LEN)
		return KDHT_REASON_TRUNCATED;
	if (bpf_xdp_load_bytes(p->f->ctx, at, &p->s->header, KDHT_HEADER_LEN))
		return KDHT_REASON_TRUNCATED;
	bad = kdht_check_form(h, p->f->message_len);
	if (bad != KDHT_GO_ON)
		return bad;
	p->forwarded = h->flags & KDHT_FLAG_FORWARDED;
	bad = p->forwarded ? kdht_check_member(p) : kdht_check_client(p);
	if (bad != KDHT_GO_ON)
		return bad;
	if (h->op > KDHT_LAST_ROUTED_OP)
		return kdht_ends_here(p, KDHT_REASON_CONTROL);
	if (h->flags & KDHT_FLAG_REPLY)
		return kdht_plan_relay(p);
	return kdht_plan_forward(p);
}

static __always_inline void kdht_sign(struct kdht_plan *p)
{
	struct kdht_header *h = &p->s->header;
	const struct kdht_key *key = &p->config->keys[0];

	h->flags |= KDHT_FLAG_FORWARDED;
	h->time = bpf_htonl(p->now);
	h->epoch = key->epoch;
	h->body_tag = 0;
	h->header_tag = 0;
	if (p->config->flags & KDHT_CONFIG_UNTAGGED || kdht_load_body(p))
		return;
	h->body_tag = bpf_cpu_to_be64(kdht_body_tag(p->s, key->k0, key->k1));
	h->header_tag = bpf_cpu_to_be64(kdht_header_tag(p->s, key->k0, key->k1));
}

static __always_inline void kdht_enter(struct kdht_plan *p)
{
	struct kdht_header *h = &p->s->header;

	__builtin_memcpy(h->client_ip, &p->f->source, 16);
	__builtin_memcpy(h->entry_ip, &p->f->target, 16);
	h->client_port = p->f->source_port;
	h->entry_port = p->f->target_port;
	h->max_reply = bpf_htons(p->s->out.max_reply);
	h->cookie = 0;
	kdht_sign(p);
}

static __always_inline void kdht_strip(struct kdht_plan *p)
{
	struct kdht_header *h = &p->s->header;

	h->cookie = 0;
	if (p->config->flags & KDHT_CONFIG_COOKIES)
		h->cookie = bpf_cpu_to_be64(
			kdht_cookie_of(p, kdht_ip_at(h->client_ip), p->now >> KDHT_COOKIE_SLOT_BITS));
	__builtin_memset(h->client_ip, 0, 16);
	__builtin_memset(h->entry_ip, 0, 16);
	h->client_port = h->entry_port = h->max_reply = 0;
	h->time = 0;
	h->epoch = 0;
	h->body_tag = h->header_tag = 0;
}

static __always_inline void kdht_apply(struct kdht_plan *p, int reason)
{
	if (reason == KDHT_REASON_RELAYED) {
		kdht_strip(p);
		return;
	}
	p->s->header.hops = p->hops - 1;
	if (reason == KDHT_REASON_ENTERED)
		kdht_enter(p);
}

#endif
