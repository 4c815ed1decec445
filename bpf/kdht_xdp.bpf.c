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

	if (f->h->flags & KDHT_FLAG_FORWARDED)
		return 0; /* a member's, or soon dropped for its tag */
	sender.kind = kdht_rate_kind_of(f->h->op);
	price = sender.kind == KDHT_RATE_WRITES ? settings->rates.prices[KDHT_RATE_WRITES] :
		sender.kind == KDHT_RATE_COSTLY ? settings->rates.prices[KDHT_RATE_COSTLY] :
						  settings->rates.prices[KDHT_RATE_READS];
	if (!price)
		return 0;
	sender.network = kdht_is_ipv4(f->source) ? f->source.low : f->source.high;
	held = bpf_map_lookup_elem(&kdht_senders, &sender);
	return held ? !kdht_rate_take(held, p->clock, price) : kdht_is_new_too_much(&sender, p->clock, price);
}

/* Write the question for bpf_fib_lookup to the scratch. */
static __always_inline void kdht_question(const struct kdht_plan *p)
{
	struct bpf_fib_lookup *fib = &p->s->fib;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = p->source_port;
	fib->dport = p->target_port;
	fib->tot_len = p->f->end;
	if (p->f->version == 4) {
		fib->family = KDHT_AF_INET;
		fib->ipv4_src = p->source.low >> 32;
		fib->ipv4_dst = p->target.low >> 32;
	} else {
		fib->family = KDHT_AF_INET6;
		kdht_put_ip(fib->ipv6_src, p->source);
		kdht_put_ip(fib->ipv6_dst, p->target);
	}
	p->s->device = p->f->device;
	p->s->route.target = p->target;
	p->s->route.from = p->f->ctx->ingress_ifindex;
	p->s->route.until = p->clock + KDHT_ROUTE_LIFE;
	p->s->route.longest = p->f->end;
}

/* Ask the kernel. The answer goes to the scratch's `route`; or the reason why there is none. Verified once. */
__noinline int kdht_ask(struct xdp_md *ctx, struct kdht_scratch *s)
{
	int tagged;
	long answer;

	if (!s)
		return KDHT_REASON_NO_ROUTE;
	s->fib.ifindex = s->device;
	tagged = s->device != s->route.from;
	answer = bpf_fib_lookup(ctx, &s->fib, sizeof(s->fib), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return KDHT_REASON_NO_NEIGHBOUR;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS || (tagged && s->fib.ifindex != s->device))
		return KDHT_REASON_NO_ROUTE; /* it would leave the VLAN, and its tag would have to be removed */
	s->route.ifindex = tagged ? s->route.from : s->fib.ifindex;
	__builtin_memcpy(s->route.macs, s->fib.dmac, ETH_ALEN);
	__builtin_memcpy(s->route.macs + ETH_ALEN, s->fib.smac, ETH_ALEN);
	return KDHT_GO_ON;
}

static __always_inline int kdht_is_known(const struct kdht_route *known, const struct kdht_plan *p)
{
	return known->until > p->clock && known->from == p->f->ctx->ingress_ifindex && !p->f->vlan &&
	       known->longest >= p->f->end && known->target.low == p->target.low &&
	       known->target.high == p->target.high;
}

/*
 * Write where the message goes to the scratch's `route`. bpf_fib_lookup is the most expensive step (140 to
 * 190 ns), so its answer is used again for KDHT_ROUTE_LIFE. A changed route takes effect as late.
 */
static __always_inline int kdht_find_route(const struct kdht_plan *p)
{
	__u32 index = ((p->target.low ^ p->target.high) * 0x9e3779b97f4a7c15ull) >> (64 - KDHT_ROUTE_BITS);
	struct kdht_route *known = bpf_map_lookup_elem(&kdht_routes, &index);
	int reason;

	if (!known)
		return KDHT_REASON_NO_ROUTE;
	if (kdht_is_known(known, p)) {
		p->s->route.ifindex = known->ifindex;
		__builtin_memcpy(p->s->route.macs, known->macs, sizeof(known->macs));
		return KDHT_GO_ON;
	}
	kdht_question(p);
	reason = kdht_ask(p->f->ctx, p->s);
	if (reason == KDHT_GO_ON && !p->f->vlan)
		*known = p->s->route;
	return reason;
}

static __always_inline int kdht_send(const struct kdht_plan *p)
{
	struct xdp_md *ctx = p->f->ctx;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct kdht_route *route = &p->s->route;

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

/* Everything before the rewriting. Gives the reason. */
static __always_inline int kdht_treat(struct kdht_plan *p, const struct kdht_xdp_state *state)
{
	int reason = kdht_parse(p->f, state);

	if (reason != KDHT_GO_ON)
		return reason;
	/* Packets get lost behind this program: only the daemon's path checks go through it. */
	if (state->settings.only && KDHT_AT(__be32, p->f->h, request_id) != state->settings.only)
		return KDHT_REASON_NOT_READY;
	return kdht_is_too_much(p, &state->settings) ? KDHT_REASON_RATE_LIMITED : kdht_plan_message(p);
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
	struct kdht_frame frame = {.ctx = ctx};
	struct kdht_plan plan = {.f = &frame};
	const struct kdht_xdp_settings *settings;
	const struct kdht_xdp_state *state;
	__u32 zero = 0;
	int reason, unroutable;

	plan.s = bpf_map_lookup_elem(&kdht_scratches, &zero);
	state = kdht_state();
	if (!plan.s || !state) {
		kdht_count(KDHT_REASON_NOT_READY);
		return XDP_PASS;
	}
	plan.config = &state->config;
	settings = &state->settings;
	if (!(plan.config->flags & KDHT_CONFIG_READY))
		return kdht_action(settings, kdht_count(KDHT_REASON_NOT_READY));
	plan.clock = bpf_ktime_get_coarse_ns();
	plan.now = kdht_now(settings, plan.clock, &plan.s->second);
	reason = kdht_treat(&plan, state);
	if (kdht_goes_on(reason) && kdht_must_pass_up(&frame))
		reason = KDHT_REASON_PARTIAL;
	if (!kdht_goes_on(reason))
		return kdht_action(settings, kdht_count(reason));
	if (!(settings->flags & KDHT_XDP_TEST_RUN)) {
		unroutable = kdht_find_route(&plan);
		if (unroutable != KDHT_GO_ON)
			return kdht_action(settings, kdht_count(unroutable));
	}
	if (kdht_rewrite(&plan, reason))
		return XDP_ABORTED;
	kdht_count(reason);
	if (settings->flags & KDHT_XDP_TEST_RUN)
		return kdht_action(settings, reason);
	return kdht_send(&plan);
}

/* The kernel allows bpf_fib_lookup only in a program that says GPL. It knows no name for this dual license. */
char LICENSE[] SEC("license") = "GPL";
