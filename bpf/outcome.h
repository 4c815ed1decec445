/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What both programs do before and after their steps.
 */
#ifndef KDHT_OUTCOME_H
#define KDHT_OUTCOME_H

#include "kdht_verdicts.h"
#include "rates.h"
#include "rewrite.h"
#include "route.h"

/* The wall clock in seconds. A BPF program has none, so it adds an offset. The division is slow: once a second. */
static __always_inline __u32 kdht_now(const struct kdht_xdp_settings *settings, __u64 clock, struct kdht_clock *known)
{
	__u64 wall = clock + settings->clock_offset;

	if (settings->flags & KDHT_XDP_FIXED_TIME)
		return settings->now;
	if (wall - known->second >= KDHT_RATE_SECOND) {
		known->number = wall / KDHT_RATE_SECOND;
		known->second = known->number * KDHT_RATE_SECOND;
	}
	return known->number;
}

static __always_inline void kdht_read_clock(const struct kdht_xdp_settings *settings, struct kdht_scratch *s, __u64 tick)
{
	s->clock = bpf_ktime_get_coarse_ns();
	s->boot = bpf_ktime_get_boot_ns();
	s->now = kdht_now(settings, s->clock, &s->known);
	s->known.offset = settings->clock_offset;
	s->known.tick = settings->flags & KDHT_XDP_FIXED_TIME ? 0 : tick;
}

/*
 * Set the scratch's clocks. The kernel sets its coarse clock once a tick, at the same time as jiffies or a moment
 * later, so an answer is right until jiffies changes, but for a tick. The verifier makes a load of bpf_jiffies64, and
 * bpf_ktime_get_coarse_ns is a call.
 */
static __always_inline void kdht_tell_time(const struct kdht_xdp_settings *settings, struct kdht_scratch *s)
{
	__u64 tick = bpf_jiffies64();

	if (tick != s->known.tick || settings->clock_offset != s->known.offset || settings->flags & KDHT_XDP_FIXED_TIME)
		kdht_read_clock(settings, s, tick);
}

static __always_inline const struct kdht_xdp_state *kdht_state(void)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&kdht_states, &zero);

	return map ? bpf_map_lookup_elem(map, &zero) : 0;
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

static __always_inline int kdht_goes_on(int reason)
{
	return reason == KDHT_REASON_ENTERED || reason == KDHT_REASON_NEXT_HOP || reason == KDHT_REASON_RELAYED;
}

/* The last step of what is sent from here. */
static __always_inline int kdht_sent(struct xdp_md *ctx, const struct kdht_xdp_settings *settings,
				     const struct kdht_scratch *s, int reason)
{
	kdht_count(reason);
	return settings->flags & KDHT_XDP_TEST_RUN ? reason << 8 | XDP_TX : kdht_send(ctx, &s->route);
}

/* The verdict on a message that was parsed. */
static __always_inline int kdht_judge(struct kdht_plan *p, const struct kdht_xdp_settings *settings)
{
	/* Packets get lost behind this program: only the daemon's path checks go through it. */
	if (settings->only && KDHT_AT(__be32, p->h, request_id) != settings->only)
		return KDHT_REASON_NOT_READY;
	return kdht_is_too_much(p, settings) ? KDHT_REASON_RATE_LIMITED : kdht_plan_message(p);
}

#endif
