/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * GETs of hot records, answered at the interface: byte for byte what the socket's loop answers from its cache
 * (kdht/core/_reply.pyx).
 *
 * The answer is put together in the scratch, frame and all. Only when it is whole does it take the request's place.
 * Until then the packet is as it came, and passes up if anything stands against an answer.
 */
#ifndef KDHT_HOT_ANSWER_H
#define KDHT_HOT_ANSWER_H

#include "hot.h"

#define KDHT_COPIES_BITS 13
#define KDHT_COPIES 8   /* of one request that are answered here */
#define KDHT_COUNT_MASK 15
#define KDHT_GROWTH 200 /* bytes for which all drivers leave room before a frame */
#define KDHT_IP_WHOLE 0x4000 /* do not fragment, as the socket says */
#define KDHT_WORD(start, i) (((__u64 *)(start))[i])

/* Requests that were answered: 60 bits tell one from others, four count. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << KDHT_COPIES_BITS);
	__type(key, __u32);
	__type(value, __u64);
} kdht_copies SEC(".maps");

/* Whether the daemon lives and serves: its socket's loop and its event loop did lately. */
static __always_inline int kdht_has_lease(const struct kdht_hot_table *table, __u64 now)
{
	return !*(const volatile __u32 *)&table->forbidden && now < *(const volatile __u64 *)&table->loop_until &&
	       now < *(const volatile __u64 *)&table->node_until;
}

/* The wall clock's seconds, rounded up as _cache.pyx does. */
static __always_inline __u32 kdht_ceiling(const struct kdht_xdp_settings *settings, const struct kdht_scratch *s)
{
	if (settings->flags & KDHT_XDP_FIXED_TIME)
		return s->now;
	return s->now + (s->clock + settings->clock_offset != s->known.second);
}

static __always_inline struct kdht_header *kdht_answer(struct kdht_scratch *s)
{
	return (void *)s->front + KDHT_FRONT_MESSAGE;
}

/*
 * Copy the record of the key in the answer's header to the scratch: the answer's body. Gives its length, or -1.
 * A global function, walked once. What was copied while the daemon wrote counts for nothing.
 */
__noinline int kdht_copy_record(struct kdht_scratch *s, __u32 now)
{
	struct kdht_hot_table *table = kdht_hot_table();
	struct kdht_hot_slot *slot;
	struct kdht_hot_set *set;
	__u32 begun, length, way, last;
	__u64 key[KDHT_HOT_KEY_WORDS], left = 0, expiry;
	const void *at;

	if (!s || !table)
		return -1;
	at = kdht_answer(s)->key;
	key[0] = *(const __u64 *)at;
	key[1] = *(const __u64 *)(at + 8);
	key[2] = *(const __u32 *)(at + 16);
	set = &table->sets[kdht_hot_set_of(key[1])];
	begun = kdht_begin(&set->sequence);
	for (way = 0; way < KDHT_HOT_WAYS; way++) {
		slot = &set->slots[way];
		if (set->valid >> way & 1 && slot->key[0] == key[0] && slot->key[1] == key[1] && slot->key[2] == key[2])
			break;
	}
	if (begun & 1 || way >= KDHT_HOT_WAYS)
		return -1;
	barrier_var(way); /* Linux 6.1 does not learn its bound from the loop */
	way &= KDHT_HOT_WAYS - 1;
	slot = &set->slots[way];
	length = slot->length;
	expiry = slot->expiry;
	if (length > KDHT_MAX_VALUE || (expiry && expiry <= now + 1ull))
		return -1; /* in its last second its end is the daemon's to see, whose clock is the exact one */
	if (expiry)
		left = expiry - now > 0xffffffffull ? 0xffffffffull : expiry - now;
	KDHT_WORD(s->body, 0) = bpf_cpu_to_be64(slot->version);
	KDHT_WORD(s->body, 1) = (__u64)bpf_htonl(slot->flags) << 32 | bpf_htonl(left);
	for (__u32 i = 0; i < KDHT_HOT_VALUE_WORDS; i++) {
		if (8 * i >= length)
			break;
		KDHT_WORD(s->body, i + 2) = slot->value[i];
	}
	last = (length + 7) / 8;
	barrier_var(last);
	if (last > KDHT_HOT_VALUE_WORDS)
		return -1;
	KDHT_WORD(s->body, last + 2) = 0;
	s->sum = slot->sum;
	if (!kdht_is_same(&set->sequence, begun))
		return -1;
	if (!set->used[way])
		set->used[way] = 1;
	return KDHT_RECORD_LEN + length;
}

/* Whether this request was answered so often that the socket's loop has to see it (_seen.pyx). */
static __always_inline int kdht_is_copy(const struct kdht_scratch *s, const struct kdht_header *h)
{
	__u64 tag = KDHT_AT(__u64, h, header_tag), mark, *seen;
	__u32 index;

	if (h->flags & KDHT_FLAG_FORWARDED && tag)
		mark = tag ^ KDHT_AT(__u64, h, body_tag);
	else
		mark = kdht_mixed(s->frame.source, KDHT_AT(__u64, h, request_id) ^ (__u64)s->now << 16 ^ s->frame.source_port);
	index = mark * 0x9e3779b97f4a7c15ull >> (64 - KDHT_COPIES_BITS);
	seen = bpf_map_lookup_elem(&kdht_copies, &index);
	if (!seen)
		return 1;
	if ((*seen ^ mark) & ~(__u64)KDHT_COUNT_MASK) {
		*seen = (mark & ~(__u64)KDHT_COUNT_MASK) | 1;
		return 0;
	}
	if ((*seen & KDHT_COUNT_MASK) >= KDHT_COPIES)
		return 1;
	(*seen)++;
	return 0;
}

/* Whether a write of the same client may wait in a socket still. */
static __always_inline int kdht_has_written(const struct kdht_scratch *s, const struct kdht_hot_table *table,
					    const struct kdht_header *h)
{
	__u32 index = kdht_writer_of(&s->frame, h);
	__u64 *last = bpf_map_lookup_elem(&kdht_writers, &index);

	return !last || (*last && *last >= *(const volatile __u64 *)&table->drained);
}

/* As `_leads_to` in kdht/core/_addresses.pxd. */
static __always_inline int kdht_leads_to(struct kdht_ip128 source, struct kdht_ip128 target)
{
	__u64 start = bpf_be64_to_cpu(target.high);
	int local = kdht_is_ipv4(target) ? (target.low >> 32 & 0xffff) == 0xfea9 : start >> 54 == 0xfe80 >> 6;

	return (source.high || source.low) && !local && kdht_is_loopback(source) == kdht_is_loopback(target);
}

/*
 * Where the answer goes, as in write_reply (kdht/core/_reply.pyx). Gives 1 if it goes to the client, 0 if to the entry
 * node, -1 if the socket has to find a way.
 */
static __always_inline int kdht_aim(const struct kdht_config *config, struct kdht_scratch *s,
				    const struct kdht_header *h)
{
	const struct kdht_ip128 usual = kdht_ip_at(s->frame.version == 4 ? config->source4 : config->source6);
	struct kdht_ip128 client = kdht_ip_at(h->client_ip), entry = kdht_ip_at(h->entry_ip);
	struct kdht_way *way = &s->way;
	__be16 entry_port = KDHT_AT(__be16, h, entry_port);
	int straight = 1;

	way->source = usual;
	way->source_port = config->port;
	way->target = client;
	way->target_port = KDHT_AT(__be16, h, client_port);
	if (!(h->flags & KDHT_FLAG_FORWARDED)) {
		way->source = s->frame.target;
		way->source_port = s->frame.target_port;
		way->target = s->frame.source;
		way->target_port = s->frame.source_port;
	} else if (entry_port == config->port && kdht_is_own(config, entry)) {
		way->source = entry;
		way->source_port = entry_port;
	} else if (h->flags & KDHT_FLAG_DIRECT && kdht_is_ipv4(client) != (s->frame.version == 4)) {
		return -1; /* whether the client can be reached depends on another address of this node */
	} else if (!(h->flags & KDHT_FLAG_DIRECT && kdht_leads_to(usual, client))) {
		way->target = entry;
		way->target_port = entry_port;
		straight = 0;
	}
	if (kdht_is_ipv4(way->target) != (s->frame.version == 4) || kdht_is_ipv4(way->source) != (s->frame.version == 4) ||
	    !way->target_port || !kdht_is_unicast(way->target) || !(way->source.high || way->source.low))
		return -1;
	return straight;
}

/* The tag of the answer's body. Zeros follow it. */
__noinline __u64 kdht_answer_tag(struct kdht_scratch *s, const struct kdht_key *key, __u64 context)
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

/* The header of the answer, from that of the request; the body is there. Verified once. */
__noinline int kdht_write_header(const struct kdht_xdp_state *state, struct kdht_scratch *s, int straight)
{
	const struct kdht_config *config;
	const struct kdht_key *key;
	struct kdht_header *h;

	if (!state || !s)
		return -1;
	config = &state->config;
	key = &config->keys[0];
	h = kdht_answer(s);
	h->flags = KDHT_FLAG_REPLY | KDHT_FLAG_FORWARDED;
	if (!h->hops || h->hops > config->hop_limit)
		h->hops = config->hop_limit;
	h->status = KDHT_STATUS_OK;
	KDHT_AT(__be16, h, body_len) = bpf_htons(s->len);
	/* time to client_port; the rest are the zeros of kdht_strip */
	if (straight) {
		KDHT_AT(__u64, h, time) = 0;
		kdht_put_ip(h->client_ip, (struct kdht_ip128){0, 0});
		kdht_put_ip(h->entry_ip, (struct kdht_ip128){0, 0});
		KDHT_AT(__be16, h, entry_port) = 0;
	}
	KDHT_AT(__be16, h, max_reply) = 0;
	KDHT_AT(__u32, h, reserved2) = 0;
	KDHT_AT(__be64, h, cookie) = 0;
	KDHT_AT(__be64, h, body_tag) = KDHT_AT(__be64, h, header_tag) = 0;
	if (straight) {
		struct kdht_sip_key secret = config->cookie;

		KDHT_AT(__be64, h, cookie) = bpf_cpu_to_be64(kdht_cookie(
			s->way.target.high, s->way.target.low, s->now >> KDHT_COOKIE_SLOT_BITS, &secret));
		return 0;
	}
	KDHT_AT(__be32, h, time) = bpf_htonl(s->now);
	h->epoch = key->epoch;
	if (config->flags & KDHT_CONFIG_UNTAGGED)
		return 0;
	KDHT_AT(__be64, h, body_tag) = bpf_cpu_to_be64(kdht_answer_tag(s, key, kdht_body_context(h)));
	KDHT_AT(__be64, h, header_tag) = bpf_cpu_to_be64(kdht_header_tag(key, h));
	return 0;
}

/* The sum of `count` 32-bit words; count is a constant. */
static __always_inline __u64 kdht_words(const void *at, int count)
{
	const __u32 *words = at;
	__u64 total = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		total += words[i];
	return total;
}

/* IP and UDP around the answer. Its checksum is made anew: the record's part is known already. */
__noinline int kdht_write_packet(struct kdht_scratch *s)
{
	struct iphdr *ip4;
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	__u32 len;
	__u64 total;

	if (!s)
		return -1;
	udp = (void *)kdht_answer(s) - sizeof(*udp);
	ip4 = (void *)udp - sizeof(*ip4);
	ip6 = (void *)udp - sizeof(*ip6);
	len = sizeof(*udp) + KDHT_HEADER_LEN + s->len;
	s->frame.udp_len = bpf_htons(len);
	udp->source = s->way.source_port;
	udp->dest = s->way.target_port;
	udp->len = s->frame.udp_len;
	total = kdht_address_sum(&s->frame, s->way.source, s->way.target) + 2ull * s->frame.udp_len +
		bpf_htons(IPPROTO_UDP) + s->way.source_port + s->way.target_port +
		kdht_words(kdht_answer(s), KDHT_HEADER_LEN / 4) + kdht_words(s->body, KDHT_RECORD_LEN / 4) + s->sum;
	udp->check = ~kdht_fold(total);
	if (!udp->check)
		udp->check = 0xffff;
	if (s->frame.version == 4) {
		__builtin_memset(ip4, 0, sizeof(*ip4));
		ip4->version = 4;
		ip4->ihl = 5;
		ip4->tot_len = bpf_htons(sizeof(*ip4) + len);
		ip4->frag_off = bpf_htons(KDHT_IP_WHOLE);
		ip4->ttl = KDHT_NEW_TTL;
		ip4->protocol = IPPROTO_UDP;
		ip4->saddr = s->way.source.low >> 32;
		ip4->daddr = s->way.target.low >> 32;
		ip4->check = ~kdht_fold(kdht_iphdr_sum(ip4));
		return 0;
	}
	__builtin_memset(ip6, 0, 8);
	ip6->version = 6;
	ip6->payload_len = s->frame.udp_len;
	ip6->nexthdr = IPPROTO_UDP;
	ip6->hop_limit = KDHT_NEW_TTL;
	kdht_put_ip(&ip6->saddr, s->way.source);
	kdht_put_ip(&ip6->daddr, s->way.target);
	return 0;
}

/* Give the frame another length. At its end where the driver can, else at its beginning. */
static __always_inline int kdht_resize(struct xdp_md *ctx, int by)
{
	if (!by || !bpf_xdp_adjust_tail(ctx, by))
		return 0;
	return by < 0 || by > KDHT_GROWTH || bpf_xdp_adjust_head(ctx, -by);
}

/* The answer takes the request's place. Not 0: it does not fit, and the packet is as it was. */
static __always_inline int kdht_replace(struct xdp_md *ctx, struct kdht_scratch *s)
{
	int version4 = s->frame.version == 4;
	__u32 start = version4 ? KDHT_FRONT_IPV4 : KDHT_FRONT_IPV6;
	__u64 length = ctx->data_end - ctx->data;
	__u32 body = s->len, whole;

	barrier_var(length);
	if (body > KDHT_MAX_BODY)
		return -1;
	whole = KDHT_FRONT - start + body;
	if (kdht_resize(ctx, (int)whole - (int)length))
		return -1;
	/* A constant each: the verifier wants to know what is read. */
	if (version4)
		return bpf_xdp_store_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV4, KDHT_FRONT - KDHT_FRONT_IPV4 + body) ?
			       -2 :
			       0;
	return bpf_xdp_store_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV6, KDHT_FRONT - KDHT_FRONT_IPV6 + body) ? -2 : 0;
}

/* Load the frame up to the end of the message's header, in front of the answer's body. */
static __always_inline int kdht_load_front(struct xdp_md *ctx, struct kdht_scratch *s)
{
	if (s->frame.version == 4)
		return bpf_xdp_load_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV4, KDHT_FRONT - KDHT_FRONT_IPV4);
	return bpf_xdp_load_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV6, KDHT_FRONT - KDHT_FRONT_IPV6);
}

/* Put the answer together in the scratch. Gives ANSWERED, or KDHT_GO_ON: the packet passes up. */
static __always_inline int kdht_make_answer(struct xdp_md *ctx, const struct kdht_xdp_state *state,
					    struct kdht_scratch *s)
{
	struct kdht_hot_table *table = kdht_hot_table();
	struct kdht_header *h = kdht_answer(s);
	int length, straight;

	if (!table || !kdht_has_lease(table, bpf_ktime_get_boot_ns()) || kdht_load_front(ctx, s))
		return KDHT_GO_ON;
	if (h->flags & KDHT_FLAG_FORWARDED) /* the body's limit, as the entry node wrote it */
		s->way.max_reply = bpf_ntohs(KDHT_AT(__be16, h, max_reply));
	if (kdht_has_written(s, table, h))
		return KDHT_GO_ON;
	straight = kdht_aim(&state->config, s, h);
	if (straight < 0)
		return KDHT_GO_ON;
	length = kdht_copy_record(s, kdht_ceiling(&state->settings, s));
	if (length < KDHT_RECORD_LEN || length > KDHT_MAX_BODY || length > s->way.max_reply || kdht_is_copy(s, h))
		return KDHT_GO_ON;
	s->len = length;
	kdht_write_header(state, s, straight);
	kdht_write_packet(s);
	return KDHT_REASON_ANSWERED;
}

static __always_inline int kdht_answer_route(struct xdp_md *ctx, const struct kdht_xdp_state *state,
					     struct kdht_scratch *s)
{
	struct kdht_plan plan = {.ctx = ctx, .config = &state->config, .s = s, .f = &s->frame, .way = &s->way};

	if (state->settings.flags & KDHT_XDP_TEST_RUN)
		return KDHT_GO_ON;
	s->frame.end = s->frame.udp + sizeof(struct udphdr) + KDHT_HEADER_LEN + s->len;
	return kdht_find_route(&plan, KDHT_REASON_RELAYED);
}

/* GETs that end here, parsed and judged. Behind a tail call, so that the others do not pay for its size. */
SEC("xdp")
int kdht_xdp_hot(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct kdht_scratch *s = bpf_map_lookup_elem(&kdht_scratches, &zero);
	const struct kdht_xdp_state *state = kdht_state();
	const struct kdht_xdp_settings *settings;
	int failed;

	if (!s || !state)
		return XDP_PASS;
	settings = &state->settings;
	if (kdht_make_answer(ctx, state, s) != KDHT_REASON_ANSWERED || kdht_answer_route(ctx, state, s) != KDHT_GO_ON)
		return kdht_action(settings, kdht_count(s->reason));
	failed = kdht_replace(ctx, s);
	if (failed)
		return failed == -2 ? XDP_ABORTED : kdht_action(settings, kdht_count(KDHT_REASON_NO_ROOM));
	kdht_count(KDHT_REASON_ANSWERED);
	if (settings->flags & KDHT_XDP_TEST_RUN)
		return KDHT_REASON_ANSWERED << 8 | XDP_TX;
	return kdht_send(ctx, &s->route);
}

/*
 * Not pinned, so the kernel empties it when the daemon's process is gone, however it ended: from then on nothing is
 * answered here, lease or not.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} kdht_unpinned SEC(".maps") = {.values = {(void *)&kdht_xdp_hot}};

/* The last step of a program whose parsed message may be hot. `s` has all that the next program needs. */
static __always_inline int kdht_try_hot(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct kdht_scratch *s = bpf_map_lookup_elem(&kdht_scratches, &zero);
	const struct kdht_xdp_state *state = kdht_state();

	bpf_tail_call(ctx, &kdht_unpinned, 0);
	return s && state ? kdht_action(&state->settings, kdht_count(s->reason)) : XDP_PASS;
}

#endif
