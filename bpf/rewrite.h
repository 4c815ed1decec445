/* SPDX-License-Identifier: Apache-2.0
 *
 * Readdressing and checksums, byte for byte what kdht/_packet.pyx makes.
 */
#ifndef KDHT_REWRITE_H
#define KDHT_REWRITE_H

#include "kdht_checksum.h"
#include "verdict.h"

#define KDHT_TTL 64

/* The sum of `count` 32-bit words, or of their complements; count is a constant. */
static __always_inline __u64 kdht_words(const void *at, int count, __u32 flip)
{
	const __u32 *words = at;
	__u64 total = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		total += words[i] ^ flip;
	return total;
}

/* A whole body, from the scratch; zeros stand behind its end. */
__noinline __u64 kdht_body_sum(struct kdht_scratch *s)
{
	__u64 total = 0;
	__u32 len;

	if (!s)
		return 0;
	len = bpf_ntohs(s->header.body_len);
	for (__u32 i = 0; i < KDHT_MAX_BODY / 4; i++) {
		if (4 * i >= len)
			break;
		total += ((const __u32 *)s->body)[i];
	}
	return total;
}

static __always_inline __u64 kdht_address_sum(const struct kdht_frame *f, const void *source, const void *target,
					      __u32 flip)
{
	if (f->version == 4)
		return kdht_words(source + 12, 1, flip) + kdht_words(target + 12, 1, flip);
	return kdht_words(source, 4, flip) + kdht_words(target, 4, flip);
}

static __always_inline __u32 kdht_ports(__be16 source, __be16 target)
{
	return (__u32)source | (__u32)target << 16; /* as the two lie in memory, little-endian */
}

/* The UDP checksum after kdht_apply; `old` is the old header's complemented sum. */
static __always_inline __u16 kdht_new_check(struct kdht_plan *p, __u64 old, int *failed)
{
	const struct kdht_frame *f = p->f;
	const struct kdht_outcome *out = &p->s->out;
	__u64 pseudo = (__u64)f->udp_len + bpf_htons(IPPROTO_UDP);
	__u64 total;
	__u16 check;

	if (f->version == 4 && !f->udp_check)
		return 0;
	total = kdht_words(&p->s->header, KDHT_HEADER_LEN / 4, 0);
	total += kdht_address_sum(f, out->source_ip, out->target_ip, 0);
	total += kdht_ports(out->source_port, out->target_port);
	if (f->udp_check == kdht_fold(pseudo + kdht_address_sum(f, &f->source, &f->target, 0))) {
		*failed = kdht_load_body(p);
		total += pseudo + f->udp_len + kdht_body_sum(p->s);
	} else {
		total += (__u16)~f->udp_check + old;
		total += kdht_address_sum(f, &f->source, &f->target, 0xffffffff);
		total += (__u32)~kdht_ports(f->source_port, f->target_port);
	}
	check = ~kdht_fold(total);
	return check ? check : 0xffff;
}

static __always_inline int kdht_write_ip(const struct kdht_frame *f, const struct kdht_outcome *out)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	__u32 at = f->ip & 0x1f; /* the verifier wants a bound */
	struct iphdr *ip = data + at;
	struct ipv6hdr *ip6 = data + at;

	if (f->version == 4) {
		if ((void *)(ip + 1) > end)
			return -1;
		ip->saddr = *(const __be32 *)(out->source_ip + 12);
		ip->daddr = *(const __be32 *)(out->target_ip + 12);
		ip->ttl = KDHT_TTL;
		ip->check = 0;
		ip->check = ~kdht_fold(kdht_words(ip, sizeof(*ip) / 4, 0));
		return 0;
	}
	if ((void *)(ip6 + 1) > end)
		return -1;
	__builtin_memcpy(&ip6->saddr, out->source_ip, 16);
	__builtin_memcpy(&ip6->daddr, out->target_ip, 16);
	ip6->hop_limit = KDHT_TTL;
	return 0;
}

/* Rewrite the packet for `reason`; nothing of it is changed before all is known. */
static __always_inline int kdht_rewrite(struct kdht_plan *p, int reason)
{
	const struct kdht_outcome *out = &p->s->out;
	struct udphdr udp = {.source = out->source_port, .dest = out->target_port, .len = p->f->udp_len};
	__u64 old = kdht_words(&p->s->header, KDHT_HEADER_LEN / 4, 0xffffffff);
	__u32 at = p->f->ip + p->f->udp;
	int failed = 0;

	kdht_apply(p, reason);
	udp.check = kdht_new_check(p, old, &failed);
	if (failed || bpf_xdp_store_bytes(p->f->ctx, at, &udp, sizeof(udp)))
		return -1;
	if (bpf_xdp_store_bytes(p->f->ctx, at + sizeof(udp), &p->s->header, KDHT_HEADER_LEN))
		return -1;
	return kdht_write_ip(p->f, out);
}

#endif
