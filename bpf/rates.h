/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * How much a client may send (kdht_rate.h).
 */
#ifndef KDHT_RATES_H
#define KDHT_RATES_H

#include "parse.h"

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

#endif
