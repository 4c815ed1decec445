/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Where the kernel would send a packet, and the sending.
 */
#ifndef KDHT_ROUTE_H
#define KDHT_ROUTE_H

#include "verdict.h"

#define KDHT_AF_INET 2
#define KDHT_AF_INET6 10

#define KDHT_ROUTE_LIFE 50000000ull /* nanoseconds for which an answer of bpf_fib_lookup is used again */

/* Write the question for bpf_fib_lookup to the scratch. */
static __always_inline void kdht_question(const struct kdht_plan *p)
{
	struct bpf_fib_lookup *fib = &p->s->fib;
	struct kdht_route *route = &p->s->route;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = p->way->source_port;
	fib->dport = p->way->target_port;
	fib->tot_len = p->f->end;
	if (p->f->version == 4) {
		fib->family = KDHT_AF_INET;
		fib->ipv4_src = p->way->source.low >> 32;
		fib->ipv4_dst = p->way->target.low >> 32;
	} else {
		fib->family = KDHT_AF_INET6;
		kdht_put_ip(fib->ipv6_src, p->way->source);
		kdht_put_ip(fib->ipv6_dst, p->way->target);
	}
	fib->ifindex = p->f->device;
	route->target = p->way->target;
	route->from = p->ctx->ingress_ifindex;
	route->until = p->s->clock + KDHT_ROUTE_LIFE;
	route->longest = p->f->end;
}

/* Ask the kernel. The answer goes to the scratch's `route`; or the reason why there is none. Verified once. */
__noinline int kdht_ask(struct xdp_md *ctx, struct kdht_scratch *s)
{
	__u32 device;
	int tagged;
	long answer;

	if (!s)
		return KDHT_REASON_NO_ROUTE;
	device = s->fib.ifindex;
	tagged = device != s->route.from;
	answer = bpf_fib_lookup(ctx, &s->fib, sizeof(s->fib), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return KDHT_REASON_NO_NEIGHBOUR;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS || (tagged && s->fib.ifindex != device))
		return KDHT_REASON_NO_ROUTE; /* it would leave the VLAN, and its tag would have to be removed */
	s->route.ifindex = tagged ? s->route.from : s->fib.ifindex;
	__builtin_memcpy(s->route.macs, s->fib.dmac, ETH_ALEN);
	__builtin_memcpy(s->route.macs + ETH_ALEN, s->fib.smac, ETH_ALEN);
	return KDHT_GO_ON;
}

/* In words: clang would copy them byte by byte. */
static __always_inline void kdht_copy_macs(void *to, const void *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	((__u32 *)to)[2] = ((const __u32 *)from)[2];
}

static __always_inline int kdht_is_known(const struct kdht_route *known, const struct kdht_plan *p)
{
	return known->until > p->s->clock && known->from == p->ctx->ingress_ifindex && !p->f->vlan &&
	       known->longest >= p->f->end && known->target.low == p->way->target.low &&
	       known->target.high == p->way->target.high;
}

/* Contacts have numbers, so that few of them share a slot; clients have none. */
static __always_inline __u32 kdht_route_slot(const struct kdht_plan *p, int reason)
{
	__u64 mixed = (p->way->target.low ^ p->way->target.high) * 0x9e3779b97f4a7c15ull;

	return reason == KDHT_REASON_RELAYED ? mixed >> (64 - KDHT_ROUTE_BITS) :
					       p->s->walk.number & ((1 << KDHT_ROUTE_BITS) - 1);
}

/*
 * Write where the message goes to the scratch's `route`. bpf_fib_lookup is the most expensive step (140 to
 * 190 ns), so its answer is used again for KDHT_ROUTE_LIFE. A changed route takes effect as late.
 */
static __always_inline int kdht_find_route(const struct kdht_plan *p, int reason)
{
	__u32 index = kdht_route_slot(p, reason);
	struct kdht_route *known = bpf_map_lookup_elem(&kdht_routes, &index);
	int unroutable;

	if (!known)
		return KDHT_REASON_NO_ROUTE;
	if (kdht_is_known(known, p)) {
		p->s->route.ifindex = known->ifindex;
		kdht_copy_macs(p->s->route.macs, known->macs);
		return KDHT_GO_ON;
	}
	kdht_question(p);
	unroutable = kdht_ask(p->ctx, p->s);
	if (unroutable == KDHT_GO_ON && !p->f->vlan)
		*known = p->s->route;
	return unroutable;
}

static __always_inline int kdht_send(struct xdp_md *ctx, const struct kdht_route *route)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + sizeof(struct ethhdr) > end)
		return XDP_ABORTED;
	kdht_copy_macs(data, route->macs);
	return route->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(route->ifindex, 0);
}

#endif
