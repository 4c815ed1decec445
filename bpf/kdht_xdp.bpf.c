// SPDX-License-Identifier: Apache-2.0
/*
 * The eBPF datapath: the verdicts of the Cython core, in the kernel, at the interface.
 *
 * What goes on is rewritten and sent (XDP_TX, or redirected); what is bad is dropped; all
 * else is passed up unchanged, where the socket datapath treats it. Every verdict is
 * counted by reason. The daemon publishes into the maps and may be away meanwhile.
 */
#include "rewrite.h"

#define KDHT_SECOND 1000000000ull
#define KDHT_AF_INET 2
#define KDHT_AF_INET6 10

/* The wall clock, seconds; a BPF program has none of its own. */
static __always_inline __u32 kdht_now(const struct kdht_xdp_settings *settings)
{
	if (settings->flags & KDHT_XDP_FIXED_TIME)
		return settings->now;
	return (bpf_ktime_get_coarse_ns() + settings->clock_offset) / KDHT_SECOND;
}

/* A token bucket per sender, one second deep, in nanoseconds' worth of messages. */
static __always_inline int kdht_is_too_much(const struct kdht_frame *f, const struct kdht_xdp_settings *settings,
					    int member)
{
	struct kdht_sender sender = {.kind = member};
	struct kdht_allowance fresh = {}, *held;
	__u32 rate = member ? settings->member_rate : settings->client_rate;
	__u64 now, price;

	if (!rate)
		return 0;
	sender.network = kdht_is_ipv4(f->source) ? f->source.low : f->source.high;
	now = bpf_ktime_get_coarse_ns();
	price = KDHT_SECOND / rate;
	held = bpf_map_lookup_elem(&kdht_senders, &sender);
	if (!held) {
		fresh.since = now;
		fresh.budget = KDHT_SECOND - price;
		bpf_map_update_elem(&kdht_senders, &sender, &fresh, BPF_ANY);
		return 0;
	}
	fresh.budget = held->budget + (now - held->since);
	if (fresh.budget > KDHT_SECOND)
		fresh.budget = KDHT_SECOND;
	held->since = now;
	held->budget = fresh.budget < price ? fresh.budget : fresh.budget - price;
	return fresh.budget < price;
}

/* Where the kernel would send it: fills the scratch's `fib`, or the reason why it would not. */
static __always_inline int kdht_route(const struct kdht_plan *p)
{
	struct bpf_fib_lookup *fib = &p->s->fib;
	struct kdht_vlan vlan = {.ifindex = p->f->ctx->ingress_ifindex, .number = p->f->vlan - 1};
	__u32 *tagged = 0;
	long answer;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = p->f->ctx->ingress_ifindex;
	if (p->f->vlan) {
		tagged = bpf_map_lookup_elem(&kdht_vlans, &vlan);
		if (!tagged)
			return KDHT_REASON_NO_ROUTE;
		fib->ifindex = *tagged;
	}
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
	answer = bpf_fib_lookup(p->f->ctx, fib, sizeof(*fib), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return KDHT_REASON_NO_NEIGHBOUR;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS)
		return KDHT_REASON_NO_ROUTE;
	if (tagged) {
		if (fib->ifindex != *tagged)
			return KDHT_REASON_NO_ROUTE; /* out of the VLAN: the tag would have to go */
		fib->ifindex = p->f->ctx->ingress_ifindex;
	}
	return KDHT_GO_ON;
}

static __always_inline int kdht_send(const struct kdht_frame *f, const struct bpf_fib_lookup *fib)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	__builtin_memcpy(eth->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib->smac, ETH_ALEN);
	if (fib->ifindex == f->ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(fib->ifindex, 0);
}

static __always_inline int kdht_count(int reason)
{
	__u32 index = reason;
	__u64 *counter = bpf_map_lookup_elem(&kdht_counters, &index);

	if (counter)
		(*counter)++;
	return reason;
}

#define X(name, value, verdict) [value] = KDHT_##verdict,
static const __u8 kdht_verdict_of[KDHT_REASON_COUNT] = {KDHT_REASONS(X)};
#undef X

static __always_inline int kdht_action(const struct kdht_xdp_settings *settings, int reason)
{
	__u8 verdict = reason >= 0 && reason < KDHT_REASON_COUNT ? kdht_verdict_of[reason] : KDHT_PASS;
	int action = verdict == KDHT_DROP ? XDP_DROP : verdict == KDHT_FORWARD || verdict == KDHT_RELAY ? XDP_TX : XDP_PASS;

	return settings->flags & KDHT_XDP_TEST_RUN ? reason << 8 | action : action;
}

/* Everything up to the rewriting: the reason. */
static __always_inline int kdht_treat(struct kdht_plan *p, const struct kdht_xdp_settings *settings)
{
	int reason = kdht_parse(p->f, p->config);

	if (reason != KDHT_GO_ON)
		return reason;
	reason = kdht_plan_message(p);
	if (reason == KDHT_REASON_ENTERED || reason == KDHT_REASON_NEXT_HOP)
		if (kdht_is_too_much(p->f, settings, p->forwarded))
			return KDHT_REASON_RATE_LIMITED;
	return reason;
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
	int reason, way;

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
	plan.now = kdht_now(settings);
	reason = kdht_treat(&plan, settings);
	if (reason != KDHT_REASON_ENTERED && reason != KDHT_REASON_NEXT_HOP && reason != KDHT_REASON_RELAYED)
		return kdht_action(settings, kdht_count(reason));
	if (!(settings->flags & KDHT_XDP_TEST_RUN)) {
		way = kdht_route(&plan);
		if (way != KDHT_GO_ON)
			return kdht_action(settings, kdht_count(way));
	}
	if (kdht_rewrite(&plan, reason))
		return XDP_ABORTED;
	kdht_count(reason);
	if (settings->flags & KDHT_XDP_TEST_RUN)
		return kdht_action(settings, reason);
	return kdht_send(&frame, &plan.s->fib);
}

char LICENSE[] SEC("license") = "GPL";
