/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Re-addressing and checksums: the same bytes as from kdht/core/_packet.pyx.
 */
#ifndef KDHT_REWRITE_H
#define KDHT_REWRITE_H

#include "verdict.h"

/* The sum of a whole body, in the scratch. Zeros follow the body. */
__noinline __u64 kdht_body_sum(struct kdht_scratch *s)
{
	__u64 total = 0;
	__u32 len;

	if (!s)
		return 0;
	len = s->len;
	for (__u32 i = 0; i < KDHT_MAX_BODY / 4; i++) {
		if (4 * i >= len)
			break;
		total += ((const __u32 *)s->body)[i];
	}
	return total;
}

static __always_inline __u64 kdht_address_sum(const struct kdht_frame *f, struct kdht_ip128 source,
					      struct kdht_ip128 target)
{
	if (f->version == 4)
		return (source.low >> 32) + (target.low >> 32);
	return kdht_ip_sum(source) + kdht_ip_sum(target);
}

/* The sum of the UDP pseudo-header of the packet as it came. */
static __always_inline __u64 kdht_pseudo_sum(const struct kdht_frame *f)
{
	return (__u64)f->udp_len + bpf_htons(IPPROTO_UDP) + kdht_address_sum(f, f->source, f->target);
}

/*
 * Whether the sender left the checksum to a device: then the field holds the pseudo-header's sum. A global function,
 * whose answer tells the verifier nothing: else it would walk all that follows once more for each answer.
 */
__noinline int kdht_is_sum(__u64 pseudo, __u32 check)
{
	return check == kdht_fold(pseudo);
}

static __always_inline int kdht_is_partial(const struct kdht_frame *f)
{
	return kdht_is_sum(kdht_pseudo_sum(f), f->udp_check);
}

/*
 * Sums count modulo 0xffff. So this is nothing, and added to a difference of sums it keeps that from being negative:
 * more than 64 words are never taken out.
 */
#define KDHT_NOTHING (64 * 0xffffffffull)

/*
 * What the new addresses and ports change. A client's own go from the packet's headers to the message's, and come back
 * from there in a reply: these do not change the sum. (Nor do the other bytes of an IPv4-mapped address.)
 */
static __always_inline __u64 kdht_moved(const struct kdht_plan *p, int reason, __u64 added, __u64 removed)
{
	added += kdht_pair_of(p->way->source_port, p->way->target_port);
	removed += kdht_pair_of(p->f->source_port, p->f->target_port);
	return (reason == KDHT_REASON_RELAYED ? 0 : added) - (reason == KDHT_REASON_ENTERED ? 0 : removed);
}

static __always_inline __u64 kdht_header_sum(const struct kdht_header *h)
{
	const __u32 *words = (const void *)h;
	__u64 total = 0;

#pragma unroll
	for (int i = 0; i < KDHT_HEADER_LEN / 4; i++)
		total += words[i];
	return total;
}

/* The sum of the packet as it is now, if a device was to complete it: there is no older sum to change. */
static __always_inline __u64 kdht_whole_sum(struct kdht_plan *p, __u64 added, int *failed)
{
	*failed = kdht_load_body(p);
	return added + kdht_pair_of(p->way->source_port, p->way->target_port) + 2 * (__u64)p->f->udp_len +
	       bpf_htons(IPPROTO_UDP) + kdht_header_sum(p->h) + kdht_body_sum(p->s);
}

static __always_inline __u16 kdht_udp_check(__u64 sum)
{
	__u16 check = ~kdht_fold(sum);

	return check ? check : 0xffff;
}

static __always_inline void kdht_write_ipv4(struct iphdr *ip, const struct kdht_plan *p, __u64 change)
{
	__u16 *hops = (void *)&ip->ttl; /* and the protocol */
	const __u16 new_hops = bpf_htons(KDHT_NEW_TTL << 8 | IPPROTO_UDP);

	ip->check = ~kdht_fold((__u16)~ip->check + change + new_hops - *hops + KDHT_NOTHING);
	*hops = new_hops;
	ip->saddr = p->way->source.low >> 32;
	ip->daddr = p->way->target.low >> 32;
}

static __always_inline void kdht_write_ipv6(struct ipv6hdr *ip, const struct kdht_plan *p)
{
	ip->hop_limit = KDHT_NEW_TTL;
	kdht_put_ip(&ip->saddr, p->way->source);
	kdht_put_ip(&ip->daddr, p->way->target);
}

/* Rewrite the packet for `reason`. `partial`: its checksum is still to be completed. */
static __always_inline int kdht_rewrite(struct kdht_plan *p, int reason, int partial)
{
	const struct kdht_frame *f = p->f;
	struct udphdr *udp = p->l4;
	__u64 removed = kdht_address_sum(f, f->source, f->target);
	__u64 added = kdht_address_sum(f, p->way->source, p->way->target);
	__u64 change = kdht_apply(p, reason) + kdht_moved(p, reason, added, removed);
	int failed = 0;

	if (partial)
		udp->check = kdht_udp_check(kdht_whole_sum(p, added, &failed));
	else if (f->udp_check || f->version == 6)
		udp->check = kdht_udp_check((__u16)~f->udp_check + change + KDHT_NOTHING);
	udp->source = p->way->source_port;
	udp->dest = p->way->target_port;
	if (f->version == 4)
		kdht_write_ipv4(p->l3, p, added - removed);
	else
		kdht_write_ipv6(p->l3, p);
	return failed;
}

#endif
