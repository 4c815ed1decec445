// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The eBPF datapath: the verdicts of the Cython core, in the kernel, at the interface.
 *
 * What goes on is rewritten and sent (XDP_TX, or redirected); what is bad is dropped; all
 * else is passed up unchanged, where the socket datapath treats it. Every verdict is
 * counted by reason. The daemon publishes into the maps and may be away meanwhile.
 */
#include "fast.h"
#include "hot_answer.h"

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
	int reason;

	if (!state || !s || kdht_resume_plan(&plan, ctx, state, s))
		return KDHT_REASON_NOT_READY;
	reason = kdht_judge(&plan, &state->settings);
	s->reason = reason;
	s->may_be_hot = kdht_may_be_hot(&plan, reason);
	return reason;
}

__noinline int kdht_rewrite_step(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s,
				 int reason)
{
	struct kdht_plan plan;

	if (!state || !s || kdht_resume_plan(&plan, ctx, state, s))
		return 1;
	return kdht_rewrite(&plan, reason, kdht_is_partial(plan.f));
}

/* Everything before the rewriting. Gives the reason. */
static __always_inline int kdht_treat(struct xdp_md *ctx, const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	int reason = kdht_parse_step(ctx, state, s);

	return reason == KDHT_GO_ON ? kdht_verdict_step(ctx, state, s) : reason;
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

/*
 * Whether the packet may be a bundle: messages that a node on this host sent as one (UDP_SEGMENT). In generic mode
 * nothing has cut it apart before the program, and its checksum is still left to a device. The socket cuts it apart.
 */
static __always_inline int kdht_may_be_bundle(int reason)
{
	return reason == KDHT_REASON_TOO_LONG || reason == KDHT_REASON_BAD_LENGTH;
}

/* Set up what each program needs. Not 0: nothing is published yet. */
static __always_inline int kdht_prepare(const struct kdht_xdp_state *state, struct kdht_scratch *s)
{
	if (!(state->config.flags & KDHT_CONFIG_READY))
		return 1;
	kdht_tell_time(&state->settings, s);
	return 0;
}

static __always_inline int kdht_route_step(struct xdp_md *ctx, const struct kdht_xdp_state *state,
					   struct kdht_scratch *s, int reason)
{
	struct kdht_plan plan;

	kdht_begin_plan(&plan, ctx, state, s);
	return kdht_find_route(&plan, reason);
}

/* The whole program, for every frame. */
SEC("xdp")
int kdht_xdp_whole(struct xdp_md *ctx)
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
	s->may_be_hot = 0;
	reason = kdht_prepare(state, s) ? KDHT_REASON_NOT_READY : kdht_treat(ctx, state, s);
	if (s->may_be_hot && kdht_is_hot_frame(&s->frame) && !kdht_must_pass_up(&s->frame))
		return kdht_try_hot(ctx);
	if ((kdht_goes_on(reason) || kdht_may_be_bundle(reason)) && kdht_must_pass_up(&s->frame))
		reason = KDHT_REASON_PARTIAL;
	if (!kdht_goes_on(reason))
		return kdht_action(settings, kdht_count(reason));
	if (!(settings->flags & KDHT_XDP_TEST_RUN)) {
		unroutable = kdht_route_step(ctx, state, s, reason);
		if (unroutable != KDHT_GO_ON)
			return kdht_action(settings, kdht_count(unroutable));
	}
	if (kdht_rewrite_step(ctx, state, s, reason))
		return XDP_ABORTED;
	return kdht_sent(ctx, settings, s, reason);
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} kdht_programs SEC(".maps") = {.values = {(void *)&kdht_xdp_whole}};

static __always_inline int kdht_treat_fast(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 protocol;
	__u32 zero = 0;
	struct kdht_scratch *s = bpf_map_lookup_elem(&kdht_scratches, &zero);
	const struct kdht_xdp_state *state = kdht_state();

	if (!s || !state || kdht_prepare(state, s) || data + sizeof(struct ethhdr) > end)
		return KDHT_UNUSUAL;
	protocol = *(const __be16 *)(data + __builtin_offsetof(struct ethhdr, h_proto)); /* a packed struct is read by bytes */
	if (protocol == bpf_htons(ETH_P_IP))
		return kdht_treat_usual(ctx, state, s, 4);
	return protocol == bpf_htons(ETH_P_IPV6) ? kdht_treat_usual(ctx, state, s, 6) : KDHT_UNUSUAL;
}

/* What is attached: the fast path, and then the whole program for what is left. */
SEC("xdp")
int kdht_xdp(struct xdp_md *ctx)
{
	int action = kdht_treat_fast(ctx);

	if (action == KDHT_MAYBE_HOT)
		return kdht_try_hot(ctx);
	if (action != KDHT_UNUSUAL)
		return action;
	bpf_tail_call(ctx, &kdht_programs, 0);
	return XDP_PASS; /* the daemon removes the program, and its map is empty already */
}

/* The kernel allows bpf_fib_lookup only in a program that says GPL. It knows no name for this dual license. */
char LICENSE[] SEC("license") = "GPL";
