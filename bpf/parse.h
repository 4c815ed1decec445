/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * From a frame to a message, in the order of kdht/core/_packet.pyx: pass packets that are not for this
 * node, drop those that no member or client sends.
 *
 * Packets are read and written in place, in words as large as possible. No field is aligned for its type,
 * and the compiler would read the fields of a packed struct byte by byte.
 */
#ifndef KDHT_PARSE_H
#define KDHT_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>

#include "kdht_checksum.h"
#include "maps.h"

#define KDHT_IP_OFFSET 0x1fff
#define KDHT_IP_MORE 0x2000
#define KDHT_MAPPED 0x00000000ffff0000ull /* bytes 8 to 15 of ::ffff:0.0.0.0, as they lie */

/* What the length of the link's header and of the IP header fit into: bounds for the verifier. */
#define KDHT_LINK_MASK 0x1f
#define KDHT_IP_MASK 0x3f

struct kdht_vlan_tag {
	__be16 tci;
	__be16 protocol;
};

/* A field of a header in a packet. */
#define KDHT_AT(type, start, name) (*(type *)((void *)(start) + __builtin_offsetof(struct kdht_header, name)))

/* A packet on its way through a step. No helper that is called moves it, so the pointers stay valid. */
struct kdht_plan {
	struct xdp_md *ctx;
	const struct kdht_config *config;
	struct kdht_scratch *s;
	struct kdht_frame *f;
	struct kdht_way *way;
	void *l3;              /* the IP header, */
	struct udphdr *l4;     /* and what comes behind it when nothing is unusual; */
	struct kdht_header *h; /* whole */
};

static __always_inline struct kdht_ip128 kdht_mapped(__be32 ip)
{
	struct kdht_ip128 mapped = {0, KDHT_MAPPED | (__u64)ip << 32};

	return mapped;
}

static __always_inline struct kdht_ip128 kdht_ip_at(const void *at)
{
	struct kdht_ip128 ip = {((const __u64 *)at)[0], ((const __u64 *)at)[1]};

	return ip;
}

static __always_inline int kdht_is_ipv4(struct kdht_ip128 ip)
{
	return ip.high == 0 && (ip.low & 0xffffffffull) == KDHT_MAPPED;
}

/* A global function: the verifier checks it once. */
__noinline int kdht_is_own_address(const struct kdht_config *config, __u64 high, __u64 low)
{
	if (!config)
		return 0;
	for (int i = 0; i < KDHT_MAX_OWN; i++) {
		const struct kdht_ip128 own = kdht_ip_at(config->own[i]);

		if (i >= config->own_count)
			break;
		if (own.high == high && own.low == low)
			return 1;
	}
	return 0;
}

static __always_inline int kdht_is_own(const struct kdht_config *config, struct kdht_ip128 ip)
{
	struct kdht_ip128 first = kdht_ip_at(config->own[0]);

	if (config->own_count == 1) /* most nodes; a call costs more than the comparison */
		return first.high == ip.high && first.low == ip.low;
	return kdht_is_own_address(config, ip.high, ip.low);
}

/* Whether one host can have the address: no multicast, no broadcast, not "any". */
static __always_inline int kdht_is_unicast(struct kdht_ip128 ip)
{
	__u8 first = kdht_is_ipv4(ip) ? (ip.low >> 32) & 0xff : ip.high & 0xff;

	if (kdht_is_ipv4(ip))
		return first && (first < 224 || (first >= 240 && ip.low >> 32 != 0xffffffffull));
	return first != 0xff && (ip.high || ip.low);
}

static __always_inline int kdht_is_loopback(struct kdht_ip128 ip)
{
	if (kdht_is_ipv4(ip))
		return ((ip.low >> 32) & 0xff) == 127;
	return !ip.high && ip.low == bpf_cpu_to_be64(1);
}

/* Whether nothing can come from this address: the kernel would refuse it, but XDP sees it before the kernel. */
static __always_inline int kdht_is_martian(const struct kdht_config *config, struct kdht_ip128 ip)
{
	return !kdht_is_unicast(ip) || kdht_is_loopback(ip) || kdht_is_own(config, ip);
}

/* The sum of two 32-bit words. clang unrolls no loop before it decides what to keep in registers. */
static __always_inline __u64 kdht_two(const void *at)
{
	const __u32 *words = at;

	return (__u64)words[0] + words[1];
}

static __always_inline __u64 kdht_ip_sum(struct kdht_ip128 ip)
{
	return (ip.high & 0xffffffff) + (ip.high >> 32) + (ip.low & 0xffffffff) + (ip.low >> 32);
}

static __always_inline __u64 kdht_iphdr_sum(const struct iphdr *ip)
{
	const __u32 *words = (const void *)ip;

	return kdht_two(words) + kdht_two(words + 2) + words[4];
}

/* The index of a frame's link, or KDHT_MAX_LINKS. A global function: each index would be a state of its own. */
__noinline int kdht_find_link(const struct kdht_xdp_state *state, __u32 ifindex, __u32 vlan)
{
	int i;

	if (!state)
		return KDHT_MAX_LINKS;
	for (i = 0; i < KDHT_MAX_LINKS; i++) {
		if (i >= state->link_count)
			return KDHT_MAX_LINKS;
		if (state->links[i].ifindex == ifindex && state->links[i].vlan == vlan)
			break;
	}
	return i;
}

static __always_inline __u32 kdht_link_of(const struct kdht_xdp_state *state, __u32 ifindex, __u32 vlan)
{
	const struct kdht_link *first = &state->links[0];

	if (state->link_count && first->ifindex == ifindex && first->vlan == vlan)
		return 0; /* most frames; as above */
	return kdht_find_link(state, ifindex, vlan);
}

/*
 * Whether the frame is addressed to this host in a network that the daemon knows. All others are left to the kernel:
 * it drops frames for other hosts (a bridge floods them, a promiscuous interface takes them), and it knows about
 * further addresses of the interface, of a macvlan for example.
 */
static __always_inline int kdht_is_for_us(struct kdht_plan *p, const struct kdht_xdp_state *state)
{
	void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
	__u32 index = kdht_link_of(state, p->ctx->ingress_ifindex, p->f->vlan);
	const struct kdht_link *link;
	const void *to = data, *own;

	if (index >= KDHT_MAX_LINKS || data + sizeof(struct ethhdr) > end)
		return 0;
	link = &state->links[index];
	own = link->mac;
	p->f->device = link->device;
	p->f->generic = link->flags & KDHT_LINK_GENERIC;
	return *(const __u32 *)to == *(const __u32 *)own && *(const __u16 *)(to + 4) == *(const __u16 *)(own + 4);
}

/* Parse Ethernet and at most one VLAN tag. Gives the Ethernet type, or 0. */
static __always_inline __be16 kdht_parse_link(struct kdht_plan *p)
{
	void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
	struct ethhdr *eth = data;
	struct kdht_vlan_tag *tag = (void *)(eth + 1);
	__u64 length = end - data;
	__be16 protocol;

	if ((void *)(eth + 1) > end)
		return 0;
	protocol = eth->h_proto;
	p->f->ip = sizeof(*eth);
	p->f->vlan = KDHT_UNTAGGED;
	p->f->unusual = KDHT_GO_ON;
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD)) {
		if ((void *)(tag + 1) > end)
			return 0;
		protocol = tag->protocol;
		p->f->vlan = (bpf_ntohs(tag->tci) & 0x0fff) + 1;
		p->f->ip += sizeof(*tag);
	}
	barrier_var(length); /* the verifier takes the difference of pointers in 64 bits only */
	p->f->ip_len = length - p->f->ip;
	return protocol;
}

static __always_inline int kdht_parse_ipv4(struct kdht_plan *p)
{
	void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
	struct iphdr *ip = data + (p->f->ip & KDHT_LINK_MASK);
	__u16 fragment;

	if ((void *)ip + 1 > end || ip->version != 4)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(ip + 1) > end)
		return KDHT_REASON_BAD_IP;
	if (ip->ihl < 5)
		return KDHT_REASON_BAD_IP;
	fragment = bpf_ntohs(ip->frag_off);
	if (ip->protocol != IPPROTO_UDP || fragment & KDHT_IP_OFFSET)
		return KDHT_REASON_NOT_OURS;
	p->f->version = 4;
	p->l3 = ip;
	p->l4 = (void *)(ip + 1);
	p->f->source = kdht_mapped(ip->saddr);
	p->f->target = kdht_mapped(ip->daddr);
	if (!kdht_is_own(p->config, p->f->target))
		return KDHT_REASON_NOT_OURS;
	p->f->udp = 4 * ip->ihl;
	p->f->end = bpf_ntohs(ip->tot_len);
	if (fragment & KDHT_IP_MORE)
		p->f->unusual = KDHT_REASON_FRAGMENT;
	else if (ip->ihl > 5)
		p->f->unusual = KDHT_REASON_IP_OPTIONS;
	return KDHT_GO_ON;
}

/* Walk IPv6 extension headers (RFC 8200, section 4) to UDP. */
static __always_inline int kdht_skip_ext_headers(struct kdht_plan *p, __u8 kind)
{
	__u8 header[8];

	for (int i = 0; i <= KDHT_MAX_EXT_HEADERS; i++) {
		if (kind == IPPROTO_UDP)
			return KDHT_GO_ON;
		if (i == KDHT_MAX_EXT_HEADERS || (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING &&
						  kind != IPPROTO_FRAGMENT && kind != IPPROTO_DSTOPTS))
			return KDHT_REASON_NOT_OURS;
		if (p->f->udp + 8 > p->f->end)
			return KDHT_REASON_BAD_IP;
		if (bpf_xdp_load_bytes(p->ctx, p->f->ip + p->f->udp, header, sizeof(header)))
			return KDHT_REASON_BAD_IP;
		if (kind == IPPROTO_FRAGMENT) {
			if (((__u32)header[2] << 8 | header[3]) & 0xfff8)
				return KDHT_REASON_NOT_OURS;
			p->f->unusual = KDHT_REASON_FRAGMENT;
			p->f->udp += 8;
		} else {
			if (p->f->unusual == KDHT_GO_ON)
				p->f->unusual = KDHT_REASON_EXT_HEADER;
			p->f->udp += 8 * ((__u32)header[1] + 1);
		}
		kind = header[0];
	}
	return KDHT_REASON_NOT_OURS;
}

static __always_inline int kdht_parse_ipv6(struct kdht_plan *p)
{
	void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
	struct ipv6hdr *ip = data + (p->f->ip & KDHT_LINK_MASK);

	if ((void *)ip + 1 > end || ip->version != 6)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(ip + 1) > end)
		return KDHT_REASON_BAD_IP;
	p->f->version = 6;
	p->l3 = ip;
	p->l4 = (void *)(ip + 1);
	p->f->source = kdht_ip_at(&ip->saddr);
	p->f->target = kdht_ip_at(&ip->daddr);
	if (kdht_is_ipv4(p->f->target) || !kdht_is_own(p->config, p->f->target))
		return KDHT_REASON_NOT_OURS;
	p->f->udp = sizeof(*ip);
	p->f->end = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (p->f->end > p->f->ip_len)
		return KDHT_REASON_BAD_IP;
	if (ip->nexthdr == IPPROTO_UDP)
		return KDHT_GO_ON;
	return kdht_skip_ext_headers(p, ip->nexthdr);
}

/* The reason to drop a fragment, or a packet with options or extension headers, if it is for us. */
static __always_inline int kdht_parse_unusual(struct kdht_plan *p)
{
	struct {
		struct udphdr udp;
		__be32 magic;
	} start = {};

	if (bpf_xdp_load_bytes(p->ctx, p->f->ip + p->f->udp, &start.udp, sizeof(start.udp)))
		return KDHT_REASON_BAD_IP;
	if (start.udp.dest != p->config->port || p->f->udp + sizeof(start) > p->f->end)
		return KDHT_REASON_NOT_OURS;
	if (bpf_xdp_load_bytes(p->ctx, p->f->ip + p->f->udp + 8, &start.magic, sizeof(start.magic)))
		return KDHT_REASON_NOT_OURS;
	if (start.magic != bpf_htonl(KDHT_MAGIC))
		return KDHT_REASON_NOT_OURS;
	if (p->f->unusual == KDHT_REASON_FRAGMENT)
		return KDHT_REASON_FRAGMENT; /* constants, so that the verifier sees that it ends here */
	return p->f->version == 4 ? KDHT_REASON_IP_OPTIONS : KDHT_REASON_EXT_HEADER;
}

/* The UDP header and the magic behind it: is it for us? */
static __always_inline int kdht_parse_udp(struct kdht_plan *p)
{
	void *end = (void *)(long)p->ctx->data_end;
	struct udphdr *udp = p->l4;
	__be32 *magic = (void *)(udp + 1);

	if (p->f->end > p->f->ip_len || p->f->udp + sizeof(*udp) > p->f->end)
		return KDHT_REASON_BAD_IP;
	if (p->f->unusual != KDHT_GO_ON)
		return kdht_parse_unusual(p);
	if ((void *)(udp + 1) > end)
		return KDHT_REASON_BAD_IP;
	if (udp->dest != p->config->port || p->f->udp + sizeof(*udp) + sizeof(*magic) > p->f->end)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(magic + 1) > end || *magic != bpf_htonl(KDHT_MAGIC))
		return KDHT_REASON_NOT_OURS;
	p->f->udp_check = udp->check;
	if (p->f->version == 4 && kdht_fold(kdht_iphdr_sum(p->l3)) != 0xffff)
		return KDHT_REASON_BAD_CHECKSUM;
	if (p->f->version == 6 && !p->f->udp_check)
		return KDHT_REASON_NO_CHECKSUM;
	p->f->udp_len = udp->len;
	if (bpf_ntohs(p->f->udp_len) != p->f->end - p->f->udp)
		return KDHT_REASON_BAD_IP;
	if (p->f->version == 6 && kdht_is_ipv4(p->f->source))
		return KDHT_REASON_BAD_ADDRESS; /* its reply would go to an IPv4 host, past all filters for IPv4 */
	if (kdht_is_martian(p->config, p->f->source))
		return KDHT_REASON_MARTIAN;
	p->f->source_port = udp->source;
	p->f->target_port = udp->dest;
	p->f->message_len = p->f->end - p->f->udp - sizeof(*udp);
	p->h = (void *)(udp + 1);
	if (p->f->message_len < KDHT_HEADER_LEN || (void *)(p->h + 1) > end)
		return KDHT_REASON_TRUNCATED;
	return KDHT_GO_ON;
}

static __always_inline int kdht_parse(struct kdht_plan *p, const struct kdht_xdp_state *state)
{
	__be16 protocol = kdht_parse_link(p);
	int reason = KDHT_REASON_NOT_OURS;

	if (!protocol || !kdht_is_for_us(p, state))
		return reason;
	if (protocol == bpf_htons(ETH_P_IP))
		reason = kdht_parse_ipv4(p);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		reason = kdht_parse_ipv6(p);
	return reason == KDHT_GO_ON ? kdht_parse_udp(p) : reason;
}

#endif
