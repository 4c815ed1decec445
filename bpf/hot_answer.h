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

#include "hot_record.h"

#define KDHT_GROWTH 200 /* bytes for which all drivers leave room before a frame */
#define KDHT_IP_WHOLE 0x4000 /* do not fragment, as the socket says */

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

/*
 * The header of the answer, from that of the request; the body is there. It is written in words of at least 32 bits: a
 * processor waits where it reads a word that was just written in pieces, and the sums and tags read words.
 */
static __always_inline void kdht_write_header(const struct kdht_config *config, struct kdht_scratch *s, int straight)
{
	const struct kdht_key *key = &config->keys[0];
	struct kdht_header *h = kdht_answer(s);
	__u32 hops = h->hops && h->hops <= config->hop_limit ? h->hops : config->hop_limit;

	KDHT_AT(__u32, h, version) = (KDHT_AT(__u32, h, version) & 0xffff) |
				     (KDHT_FLAG_REPLY | KDHT_FLAG_FORWARDED) << 16 | hops << 24;
	KDHT_AT(__u32, h, attempt) = h->attempt | KDHT_STATUS_OK << 8 | (__u32)bpf_htons(s->len) << 16;
	KDHT_AT(__u64, h, body_tag) = KDHT_AT(__u64, h, header_tag) = 0;
	if (straight) { /* the zeros of kdht_strip */
		KDHT_AT(__u64, h, time) = 0; /* and epoch and client_port */
		kdht_put_ip(h->client_ip, (struct kdht_ip128){0, 0});
		kdht_put_ip(h->entry_ip, (struct kdht_ip128){0, 0});
		KDHT_AT(__u64, h, entry_port) = 0; /* and max_reply */
		KDHT_AT(__be64, h, cookie) = bpf_cpu_to_be64(
			kdht_cookie_now(s->way.target, s->now >> KDHT_COOKIE_SLOT_BITS, &config->cookie));
		return;
	}
	KDHT_AT(__be32, h, time) = bpf_htonl(s->now);
	KDHT_AT(__u32, h, epoch) = kdht_pair_of(key->epoch, KDHT_AT(__be16, h, client_port)); /* reserved1 is 0 */
	KDHT_AT(__u64, h, entry_port) = KDHT_AT(__be16, h, entry_port); /* max_reply and reserved2 are 0 */
	KDHT_AT(__be64, h, cookie) = 0;
	if (config->flags & KDHT_CONFIG_UNTAGGED)
		return;
	KDHT_AT(__be64, h, body_tag) = bpf_cpu_to_be64(kdht_answer_tag(s, key, kdht_body_context(h)));
	KDHT_AT(__be64, h, header_tag) = bpf_cpu_to_be64(kdht_header_tag(key, h));
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

static __always_inline void kdht_new_ipv4(struct iphdr *ip, const struct kdht_way *way, __u32 udp_len)
{
	__u32 *words = (void *)ip;

	words[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + udp_len));
	words[1] = bpf_htonl(KDHT_IP_WHOLE);
	words[2] = bpf_htonl(KDHT_NEW_TTL << 24 | IPPROTO_UDP << 16);
	words[3] = way->source.low >> 32;
	words[4] = way->target.low >> 32;
	ip->check = ~kdht_fold(kdht_iphdr_sum(ip));
}

static __always_inline void kdht_new_ipv6(struct ipv6hdr *ip, const struct kdht_way *way, __u32 udp_len)
{
	__u32 *words = (void *)ip;

	words[0] = bpf_htonl(6 << 28);
	words[1] = bpf_htonl(udp_len << 16 | IPPROTO_UDP << 8 | KDHT_NEW_TTL);
	kdht_put_ip(&ip->saddr, way->source);
	kdht_put_ip(&ip->daddr, way->target);
}

/* Header, UDP and IP. The UDP checksum is made anew: the record's part is known already. */
static __always_inline int kdht_write_answer(const struct kdht_xdp_state *state, struct kdht_scratch *s, int straight)
{
	__u32 *udp, len;
	__u64 total;
	__be16 udp_len;

	if (!state || !s)
		return -1;
	kdht_write_header(&state->config, s, straight);
	len = sizeof(struct udphdr) + KDHT_HEADER_LEN + s->len;
	udp_len = bpf_htons(len);
	udp = (void *)kdht_answer(s) - sizeof(struct udphdr);
	udp[0] = kdht_pair_of(s->way.source_port, s->way.target_port);
	total = kdht_address_sum(&s->frame, s->way.source, s->way.target) + udp[0] + 2ull * udp_len +
		bpf_htons(IPPROTO_UDP) + kdht_words(kdht_answer(s), KDHT_HEADER_LEN / 4) +
		kdht_words(s->body, KDHT_RECORD_LEN / 4) + s->sum;
	udp[1] = kdht_pair_of(udp_len, kdht_udp_check(total));
	if (s->frame.version == 4)
		kdht_new_ipv4((void *)udp - sizeof(struct iphdr), &s->way, len);
	else
		kdht_new_ipv6((void *)udp - sizeof(struct ipv6hdr), &s->way, len);
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
	long failed;

	barrier_var(length);
	barrier_var(body);
	if (body > KDHT_MAX_BODY)
		return -1;
	whole = KDHT_FRONT - start + body;
	if (kdht_resize(ctx, (int)whole - (int)length))
		return -1;
	/* A constant each: the verifier wants to know what is read. The asm keeps the compiler from making one call of both. */
	if (version4) {
		failed = bpf_xdp_store_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV4,
					     KDHT_FRONT - KDHT_FRONT_IPV4 + body);
		asm volatile("" : : "i"(4));
	} else {
		failed = bpf_xdp_store_bytes(ctx, 0, (void *)s->front + KDHT_FRONT_IPV6,
					     KDHT_FRONT - KDHT_FRONT_IPV6 + body);
		asm volatile("" : : "i"(6));
	}
	return failed ? -2 : 0;
}

/* In words; `at` is the beginning of a frame, or of its place in the scratch. */
static __always_inline void kdht_copy_link(void *to, const void *from)
{
	kdht_copy_macs(to, from);
	*(__u16 *)(to + 12) = *(const __u16 *)(from + 12);
}

/*
 * Load what the answer keeps of the request: the link's header and the message's. Not by bpf_xdp_load_bytes, which is a
 * call. `at`: where the message begins, a constant.
 */
static __always_inline int kdht_load_request(struct xdp_md *ctx, struct kdht_scratch *s, void *link, const __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const __u64 *from = data + at;
	__u64 *to = (void *)kdht_answer(s);

	if (data + at + KDHT_HEADER_LEN > end)
		return -1;
	kdht_copy_link(link, data);
#pragma unroll
	for (int i = 0; i < KDHT_HEADER_LEN / 8; i++)
		to[i] = from[i];
	return 0;
}

static __always_inline int kdht_load_front(struct xdp_md *ctx, struct kdht_scratch *s)
{
	if (s->frame.version == 4)
		return kdht_load_request(ctx, s, (void *)s->front + KDHT_FRONT_IPV4, KDHT_FRONT_MESSAGE - KDHT_FRONT_IPV4);
	return kdht_load_request(ctx, s, (void *)s->front + KDHT_FRONT_IPV6, KDHT_FRONT_MESSAGE - KDHT_FRONT_IPV6);
}

/* Put the answer together in the scratch. Gives ANSWERED, or KDHT_GO_ON: the packet passes up. */
static __always_inline int kdht_make_answer(struct xdp_md *ctx, const struct kdht_xdp_state *state,
					    struct kdht_scratch *s)
{
	struct kdht_hot_table *table = kdht_hot_table();
	struct kdht_header *h = kdht_answer(s);
	struct kdht_copy copy;
	int length, straight;

	if (!table || !kdht_has_lease(table, s->boot) || kdht_load_front(ctx, s))
		return KDHT_GO_ON;
	if (h->flags & KDHT_FLAG_FORWARDED) /* the body's limit, as the entry node wrote it */
		s->way.max_reply = bpf_ntohs(KDHT_AT(__be16, h, max_reply));
	if (kdht_has_written(s, table, h) || kdht_find_copy(&copy, s, h))
		return KDHT_GO_ON;
	straight = kdht_aim(&state->config, s, h);
	if (straight < 0)
		return KDHT_GO_ON;
	length = kdht_copy_record(s, kdht_ceiling(&state->settings, s));
	if (length < KDHT_RECORD_LEN || length > KDHT_MAX_BODY || length > s->way.max_reply || kdht_is_copy(&copy))
		return KDHT_GO_ON;
	s->len = length;
	kdht_write_answer(state, s, straight);
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
	return kdht_sent(ctx, settings, s, KDHT_REASON_ANSWERED);
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
