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

static __always_inline __u64 kdht_address_sum(const struct kdht_frame *f, const struct kdht_ip128 *source,
					      const struct kdht_ip128 *target, __u32 flip)
{
	if (f->version == 4)
		return ((__u32)(source->low >> 32) ^ flip) + (__u64)((__u32)(target->low >> 32) ^ flip);
	return kdht_words(source, 4, flip) + kdht_words(target, 4, flip);
}

static __always_inline __u32 kdht_ports(__be16 source, __be16 target)
{
	return (__u32)source | (__u32)target << 16; /* as the two lie in memory, little-endian */
}

/* The words of the header that kdht_apply changes: flags and hops, and for all but the next hop what stands
 * behind body_len. */
static __always_inline __u64 kdht_changing(const struct kdht_header *h, int reason, __u32 flip)
{
	const __u32 *words = (const void *)h;
	__u64 total = words[1] ^ flip;

	if (reason != KDHT_REASON_NEXT_HOP)
		total += kdht_words(words + 10, 18, flip);
	return total;
}

/* The sum of the UDP pseudo-header of the packet as it came. */
static __always_inline __u64 kdht_pseudo_sum(const struct kdht_frame *f)
{
	return (__u64)f->udp_len + bpf_htons(IPPROTO_UDP) + kdht_address_sum(f, &f->source, &f->target, 0);
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

/* The UDP checksum after kdht_apply; `old` is the sum of what it changed, complemented. */
static __always_inline __u16 kdht_new_check(struct kdht_plan *p, int reason, int partial, __u64 old,
					    int *failed)
{
	const struct kdht_frame *f = p->f;
	__u64 pseudo = (__u64)f->udp_len + bpf_htons(IPPROTO_UDP);
	__u64 total = kdht_address_sum(f, &p->way->source, &p->way->target, 0);
	__u16 check;

	if (f->version == 4 && !f->udp_check)
		return 0;
	total += kdht_ports(p->way->source_port, p->way->target_port);
	if (partial) {
		*failed = kdht_load_body(p);
		total += pseudo + f->udp_len + kdht_words(p->h, KDHT_HEADER_LEN / 4, 0) + kdht_body_sum(p->s);
	} else {
		total += (__u16)~f->udp_check + old + kdht_changing(p->h, reason, 0);
		total += kdht_address_sum(f, &f->source, &f->target, 0xffffffff);
		total += (__u32)~kdht_ports(f->source_port, f->target_port);
	}
	check = ~kdht_fold(total);
	return check ? check : 0xffff;
}

static __always_inline void kdht_write_ip(const struct kdht_plan *p)
{
	struct iphdr *ip = p->l3;
	struct ipv6hdr *ip6 = p->l3;

	if (p->f->version == 4) {
		ip->saddr = p->way->source.low >> 32;
		ip->daddr = p->way->target.low >> 32;
		ip->ttl = KDHT_NEW_TTL;
		ip->check = 0;
		ip->check = ~kdht_fold(kdht_words(ip, sizeof(*ip) / 4, 0));
		return;
	}
	kdht_put_ip(&ip6->saddr, p->way->source);
	kdht_put_ip(&ip6->daddr, p->way->target);
	ip6->hop_limit = KDHT_NEW_TTL;
}

/* Rewrite the packet for `reason`. `partial`: its checksum is still to be completed. */
static __always_inline int kdht_rewrite(struct kdht_plan *p, int reason, int partial)
{
	struct udphdr *udp = p->l4;
	__u64 old = kdht_changing(p->h, reason, 0xffffffff);
	int failed = 0;

	kdht_apply(p, reason);
	udp->check = kdht_new_check(p, reason, partial, old, &failed);
	udp->source = p->way->source_port;
	udp->dest = p->way->target_port;
	kdht_write_ip(p);
	return failed;
}

#endif
