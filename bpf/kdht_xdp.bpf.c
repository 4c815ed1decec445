// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The eBPF datapath: the verdicts of the Cython core, in the kernel, at the interface.
 *
 * What goes on is rewritten and sent (XDP_TX, or redirected); what is bad is dropped; all
 * else is passed up unchanged, where the socket datapath treats it. Every verdict is
 * counted by reason. The daemon publishes into the maps and may be away meanwhile.
 */
#include "kdht_verdicts.h"
#include "rewrite.h"

#define KDHT_AF_INET 2
#define KDHT_AF_INET6 10

#define KDHT_ROUTE_LIFE 50000000ull /* nanoseconds for which an answer of bpf_fib_lookup is used again */

/* The wall clock in seconds. A BPF program has none, so it adds an offset. The division is slow: once a second. */
static __always_inline __u32 kdht_now(const struct kdht_xdp_settings *settings, __u64 clock, struct kdht_second *known)
{
	__u64 wall = clock + settings->clock_offset;

	if (settings->flags & KDHT_XDP_FIXED_TIME)
		return settings->now;
	if (wall - known->begin >= KDHT_RATE_SECOND) {
		known->number = wall / KDHT_RATE_SECOND;
		known->begin = known->number * KDHT_RATE_SECOND;
	}
	return known->number;
}

/* The first request of a new address: it takes from the crowd's bucket, and its own begins. */
static __always_inline int kdht_is_new_too_much(const struct kdht_sender *sender, __u64 now, __u64 price)
{
	struct kdht_allowance fresh = {.since = now, .budget = kdht_rate_depth(price) - price}, *crowd;
	__u32 kind = sender->kind;

	crowd = bpf_map_lookup_elem(&kdht_crowd, &kind);
	if (!crowd || !kdht_rate_take(crowd, now, price / KDHT_CROWD_FACTOR))
		return 1;
	bpf_map_update_elem(&kdht_senders, sender, &fresh, BPF_ANY);
	return 0;
}

/* Whether a client has sent more than it may. Before all other checks: what is too much must cost little. */
static __always_inline int kdht_is_too_much(const struct kdht_plan *p, const struct kdht_xdp_settings *settings)
{
	const struct kdht_frame *f = p->f;
	struct kdht_sender sender = {};
	struct kdht_allowance *held;
	__u64 price;

	if (p->h->flags & KDHT_FLAG_FORWARDED)
		return 0; /* a member's, or soon dropped for its tag */
	sender.kind = kdht_rate_kind_of(p->h->op);
	price = sender.kind == KDHT_RATE_WRITES ? settings->rates.prices[KDHT_RATE_WRITES] :
		sender.kind == KDHT_RATE_COSTLY ? settings->rates.prices[KDHT_RATE_COSTLY] :
						  settings->rates.prices[KDHT_RATE_READS];
	if (!price)
		return 0;
	sender.network = kdht_is_ipv4(f->source) ? f->source.low : f->source.high;
	held = bpf_map_lookup_elem(&kdht_senders, &sender);
	return held ? !kdht_rate_take(held, p->s->clock, price) : kdht_is_new_too_much(&sender, p->s->clock, price);
}

/* Write the question for bpf_fib_lookup to the scratch. */
static __always_inline void kdht_question(struct xdp_md *ctx, struct kdht_scratch *s)
{
	struct bpf_fib_lookup *fib = &s->fib;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = s->way.source_port;
	fib->dport = s->way.target_port;
	fib->tot_len = s->frame.end;
	if (s->frame.version == 4) {
		fib->family = KDHT_AF_INET;
		fib->ipv4_src = s->way.source.low >> 32;
		fib->ipv4_dst = s->way.target.low >> 32;
	} else {
		fib->family = KDHT_AF_INET6;
		kdht_put_ip(fib->ipv6_src, s->way.source);
		kdht_put_ip(fib->ipv6_dst, s->way.target);
	}
	s->route.target = s->way.target;
	s->route.from = ctx->ingress_ifindex;
	s->route.until = s->clock + KDHT_ROUTE_LIFE;
	s->route.longest = s->frame.end;
}

/* Ask the kernel. The answer goes to the scratch's `route`; or the reason why there is none. Verified once. */
__noinline int kdht_ask(struct xdp_md *ctx, struct kdht_scratch *s)
{
	int tagged;
	long answer;

	if (!s)
		return KDHT_REASON_NO_ROUTE;
	s->fib.ifindex = s->frame.device;
	tagged = s->frame.device != s->route.from;
	answer = bpf_fib_lookup(ctx, &s->fib, sizeof(s->fib), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return KDHT_REASON_NO_NEIGHBOUR;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS || (tagged && s->fib.ifindex != s->frame.device))
		return KDHT_REASON_NO_ROUTE; /* it would leave the VLAN, and its tag would have to be removed */
	s->route.ifindex = tagged ? s->route.from : s->fib.ifindex;
	__builtin_memcpy(s->route.macs, s->fib.dmac, ETH_ALEN);
	__builtin_memcpy(s->route.macs + ETH_ALEN, s->fib.smac, ETH_ALEN);
	return KDHT_GO_ON;
}

static __always_inline int kdht_is_known(const struct kdht_route *known, struct xdp_md *ctx,
					 const struct kdht_scratch *s)
{
	return known->until > s->clock && known->from == ctx->ingress_ifindex && !s->frame.vlan &&
	       known->longest >= s->frame.end && known->target.low == s->way.target.low &&
	       known->target.high == s->way.target.high;
}

/*
 * Write where the message goes to the scratch's `route`. bpf_fib_lookup is the most expensive step (140 to
 * 190 ns), so its answer is used again for KDHT_ROUTE_LIFE. A changed route takes effect as late.
 */
static __always_inline int kdht_find_route(struct xdp_md *ctx, struct kdht_scratch *s)
{
	__u32 index = ((s->way.target.low ^ s->way.target.high) * 0x9e3779b97f4a7c15ull) >> (64 - KDHT_ROUTE_BITS);
	struct kdht_route *known = bpf_map_lookup_elem(&kdht_routes, &index);
	int reason;

	if (!known)
		return KDHT_REASON_NO_ROUTE;
	if (kdht_is_known(known, ctx, s)) {
		s->route.ifindex = known->ifindex;
		__builtin_memcpy(s->route.macs, known->macs, sizeof(known->macs));
		return KDHT_GO_ON;
	}
	kdht_question(ctx, s);
	reason = kdht_ask(ctx, s);
	if (reason == KDHT_GO_ON && !s->frame.vlan)
		*known = s->route;
	return reason;
}

static __always_inline int kdht_send(struct xdp_md *ctx, const struct kdht_route *route)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + sizeof(struct ethhdr) > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, route->macs, 2 * ETH_ALEN);
	return route->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(route->ifindex, 0);
}

static __always_inline int kdht_count(int reason)
{
	__u32 index = reason;
	__u64 *counter = bpf_map_lookup_elem(&kdht_counters, &index);

	if (counter)
		(*counter)++;
	return reason;
}

static __always_inline int kdht_action(const struct kdht_xdp_settings *settings, int reason)
{
	__u8 verdict = reason >= 0 && reason < KDHT_REASON_COUNT ? kdht_verdict_of[reason] : KDHT_PASS;
	int action = verdict == KDHT_DROP ? XDP_DROP : verdict == KDHT_FORWARD || verdict == KDHT_RELAY ? XDP_TX : XDP_PASS;

	return settings->flags & KDHT_XDP_TEST_RUN ? reason << 8 | action : action;
}

static __always_inline void kdht_begin_plan(struct kdht_plan *p, struct xdp_md *ctx,
					    const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	p->ctx = ctx;
	p->config = &state->config;
	p->s = s;
	p->f = &s->frame;
	p->way = &s->way;
}

/* The same in a later step: kdht_parse has been there. Not 0: the packet is not what it was. */
static __always_inline int kdht_resume_plan(struct kdht_plan *p, struct xdp_md *ctx,
					    const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *l3 = data + (s->frame.ip & KDHT_LINK_MASK), *l4 = l3 + (s->frame.udp & KDHT_IP_MASK);

	barrier_var(l3); /* else the compiler adds the parts up anew for each use, and the verifier knows no bounds */
	barrier_var(l4);
	kdht_begin_plan(p, ctx, state, s);
	p->l3 = l3;
	p->l4 = l4;
	p->h = (void *)(p->l4 + 1);
	return p->l3 + sizeof(struct ipv6hdr) > end || (void *)(p->h + 1) > end;
}

/* The steps. Each is a global function, so the verifier walks it once. */
__noinline int kdht_parse_step(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	struct kdht_plan plan;

	if (!state || !s)
		return KDHT_REASON_NOT_READY;
	kdht_begin_plan(&plan, ctx, state, s);
	return kdht_parse(&plan, state);
}

__noinline int kdht_verdict_step(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	struct kdht_plan plan;

	if (!state || !s || kdht_resume_plan(&plan, ctx, state, s))
		return KDHT_REASON_NOT_READY;
	/* Packets get lost behind this program: only the daemon's path checks go through it. */
	if (state->settings.only && KDHT_AT(__be32, plan.h, request_id) != state->settings.only)
		return KDHT_REASON_NOT_READY;
	return kdht_is_too_much(&plan, &state->settings) ? KDHT_REASON_RATE_LIMITED : kdht_plan_message(&plan);
}

__noinline int kdht_rewrite_step(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s,
				 int reason)
{
	struct kdht_plan plan;

	if (!state || !s || kdht_resume_plan(&plan, ctx, state, s))
		return 1;
	return kdht_rewrite(&plan, reason);
}

/* Everything before the rewriting. Gives the reason. */
static __always_inline int kdht_treat(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	int reason = kdht_parse_step(ctx, state, s);

	return reason == KDHT_GO_ON ? kdht_verdict_step(ctx, state, s) : reason;
}

static __always_inline int kdht_goes_on(int reason)
{
	return reason == KDHT_REASON_ENTERED || reason == KDHT_REASON_NEXT_HOP || reason == KDHT_REASON_RELAYED;
}

/*
 * In generic mode the kernel keeps a packet's checksum to be completed, whatever the program writes: the next device
 * with checksum offload would complete a whole one once more. Devices without it would not complete a partial one.
 * The socket gets such packets.
 */
static __always_inline int kdht_must_pass_up(const struct kdht_frame *f)
{
	return f->generic && kdht_is_partial(f);
}

static __always_inline const struct kdht_xdp_state *kdht_state(void)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&kdht_states, &zero);

	return map ? bpf_map_lookup_elem(map, &zero) : 0;
}

SEC("xdp")
int kdht_xdp(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct kdht_scratch *s = bpf_map_lookup_elem(&kdht_scratches, &zero);
	const struct kdht_xdp_state *state = kdht_state();
	const struct kdht_xdp_settings *settings;
	int reason, unroutable;

	if (!s || !state) {
		kdht_count(KDHT_REASON_NOT_READY);
		return XDP_PASS;
	}
	settings = &state->settings;
	if (!(state->config.flags & KDHT_CONFIG_READY))
		return kdht_action(settings, kdht_count(KDHT_REASON_NOT_READY));
	s->clock = bpf_ktime_get_coarse_ns();
	s->now = kdht_now(settings, s->clock, &s->second);
	reason = kdht_treat(ctx, state, s);
	if (kdht_goes_on(reason) && kdht_must_pass_up(&s->frame))
		reason = KDHT_REASON_PARTIAL;
	if (!kdht_goes_on(reason))
		return kdht_action(settings, kdht_count(reason));
	if (!(settings->flags & KDHT_XDP_TEST_RUN)) {
		unroutable = kdht_find_route(ctx, s);
		if (unroutable != KDHT_GO_ON)
			return kdht_action(settings, kdht_count(unroutable));
	}
	if (kdht_rewrite_step(ctx, state, s, reason))
		return XDP_ABORTED;
	kdht_count(reason);
	if (settings->flags & KDHT_XDP_TEST_RUN)
		return kdht_action(settings, reason);
	return kdht_send(ctx, &s->route);
}

/* The kernel allows bpf_fib_lookup only in a program that says GPL. It knows no name for this dual license. */
char LICENSE[] SEC("license") = "GPL";
