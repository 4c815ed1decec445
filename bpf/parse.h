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

struct kdht_vlan_tag {
	__be16 tci;
	__be16 protocol;
};

/* A field of a header in a packet. */
#define KDHT_AT(type, start, name) (*(type *)((void *)(start) + __builtin_offsetof(struct kdht_header, name)))

/* A frame in the program. No helper that is called moves the packet, so the pointers stay valid. */
struct kdht_frame {
	struct xdp_md *ctx;
	void *l3;              /* the IP header, */
	struct udphdr *l4;     /* and what comes behind it when nothing is unusual; */
	struct kdht_header *h; /* whole */
	__u32 ip;      /* offset of the IP header */
	__u32 ip_len;  /* from there to the end of the frame */
	__u32 udp;     /* from the IP header on */
	__u32 end;     /* the end according to the IP header, from the IP header on */
	__u32 message_len;
	__u32 vlan;    /* number + 1, or KDHT_UNTAGGED */
	__u32 generic; /* the packet may be one whose checksum a device will complete after us */
	__u32 device;  /* the interface that the kernel will say it came from: the VLAN's own */
	int unusual;   /* the reason to drop it if it turns out to be ours */
	__u16 version; /* 4 or 6 */
	__be16 source_port, target_port;
	__be16 udp_len, udp_check;
	struct kdht_ip128 source, target;
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
		struct kdht_ip128 own = kdht_ip_at(config->own[i]);

		if (i < config->own_count && own.high == high && own.low == low)
			return 1;
	}
	return 0;
}

static __always_inline int kdht_is_own(const struct kdht_config *config, struct kdht_ip128 ip)
{
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

/*
 * Whether the frame is addressed to this host in a network that the daemon knows. All others are left to the kernel:
 * it drops frames for other hosts (a bridge floods them, a promiscuous interface takes them), and it knows about
 * further addresses of the interface, of a macvlan for example.
 */
static __always_inline int kdht_is_for_us(struct kdht_frame *f, const struct kdht_xdp_state *state)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	__u32 index = kdht_find_link(state, f->ctx->ingress_ifindex, f->vlan);
	const struct kdht_link *link;
	const __u16 *to = data, *own;

	if (index >= KDHT_MAX_LINKS || data + sizeof(struct ethhdr) > end)
		return 0;
	link = &state->links[index];
	own = (const __u16 *)link->mac;
	f->device = link->device;
	f->generic = link->flags & KDHT_LINK_GENERIC;
	return to[0] == own[0] && to[1] == own[1] && to[2] == own[2];
}

/* Parse Ethernet and at most one VLAN tag. Gives the Ethernet type, or 0. */
static __always_inline __be16 kdht_parse_link(struct kdht_frame *f)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	struct ethhdr *eth = data;
	struct kdht_vlan_tag *tag = (void *)(eth + 1);
	__be16 protocol;

	if ((void *)(eth + 1) > end)
		return 0;
	protocol = eth->h_proto;
	f->ip = sizeof(*eth);
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD)) {
		if ((void *)(tag + 1) > end)
			return 0;
		protocol = tag->protocol;
		f->vlan = (bpf_ntohs(tag->tci) & 0x0fff) + 1;
		f->ip += sizeof(*tag);
	}
	f->ip_len = end - data - f->ip;
	return protocol;
}

static __always_inline int kdht_parse_ipv4(struct kdht_frame *f, const struct kdht_config *config)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	struct iphdr *ip = data + f->ip;
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
	f->version = 4;
	f->l3 = ip;
	f->l4 = (void *)(ip + 1);
	f->source = kdht_mapped(ip->saddr);
	f->target = kdht_mapped(ip->daddr);
	if (!kdht_is_own(config, f->target))
		return KDHT_REASON_NOT_OURS;
	f->udp = 4 * ip->ihl;
	f->end = bpf_ntohs(ip->tot_len);
	if (fragment & KDHT_IP_MORE)
		f->unusual = KDHT_REASON_FRAGMENT;
	else if (ip->ihl > 5)
		f->unusual = KDHT_REASON_IP_OPTIONS;
	return KDHT_GO_ON;
}

/* Walk IPv6 extension headers (RFC 8200, section 4) to UDP. */
static __always_inline int kdht_skip_ext_headers(struct kdht_frame *f, __u8 kind)
{
	__u8 header[8];

	for (int i = 0; i <= KDHT_MAX_EXT_HEADERS; i++) {
		if (kind == IPPROTO_UDP)
			return KDHT_GO_ON;
		if (i == KDHT_MAX_EXT_HEADERS || (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING &&
						  kind != IPPROTO_FRAGMENT && kind != IPPROTO_DSTOPTS))
			return KDHT_REASON_NOT_OURS;
		if (f->udp + 8 > f->end)
			return KDHT_REASON_BAD_IP;
		if (bpf_xdp_load_bytes(f->ctx, f->ip + f->udp, header, sizeof(header)))
			return KDHT_REASON_BAD_IP;
		if (kind == IPPROTO_FRAGMENT) {
			if (((__u32)header[2] << 8 | header[3]) & 0xfff8)
				return KDHT_REASON_NOT_OURS;
			f->unusual = KDHT_REASON_FRAGMENT;
			f->udp += 8;
		} else {
			if (f->unusual == KDHT_GO_ON)
				f->unusual = KDHT_REASON_EXT_HEADER;
			f->udp += 8 * ((__u32)header[1] + 1);
		}
		kind = header[0];
	}
	return KDHT_REASON_NOT_OURS;
}

static __always_inline int kdht_parse_ipv6(struct kdht_frame *f, const struct kdht_config *config)
{
	void *data = (void *)(long)f->ctx->data, *end = (void *)(long)f->ctx->data_end;
	struct ipv6hdr *ip = data + f->ip;

	if ((void *)ip + 1 > end || ip->version != 6)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(ip + 1) > end)
		return KDHT_REASON_BAD_IP;
	f->version = 6;
	f->l3 = ip;
	f->l4 = (void *)(ip + 1);
	f->source = kdht_ip_at(&ip->saddr);
	f->target = kdht_ip_at(&ip->daddr);
	if (kdht_is_ipv4(f->target) || !kdht_is_own(config, f->target))
		return KDHT_REASON_NOT_OURS;
	f->udp = sizeof(*ip);
	f->end = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (f->end > f->ip_len)
		return KDHT_REASON_BAD_IP;
	if (ip->nexthdr == IPPROTO_UDP)
		return KDHT_GO_ON;
	return kdht_skip_ext_headers(f, ip->nexthdr);
}

/* The reason to drop a fragment, or a packet with options or extension headers, if it is for us. */
static __always_inline int kdht_parse_unusual(struct kdht_frame *f, const struct kdht_config *config)
{
	struct {
		struct udphdr udp;
		__be32 magic;
	} start = {};

	if (bpf_xdp_load_bytes(f->ctx, f->ip + f->udp, &start.udp, sizeof(start.udp)))
		return KDHT_REASON_BAD_IP;
	if (start.udp.dest != config->port || f->udp + sizeof(start) > f->end)
		return KDHT_REASON_NOT_OURS;
	if (bpf_xdp_load_bytes(f->ctx, f->ip + f->udp + 8, &start.magic, sizeof(start.magic)))
		return KDHT_REASON_NOT_OURS;
	if (start.magic != bpf_htonl(KDHT_MAGIC))
		return KDHT_REASON_NOT_OURS;
	if (f->unusual == KDHT_REASON_FRAGMENT)
		return KDHT_REASON_FRAGMENT; /* constants, so that the verifier sees that it ends here */
	return f->version == 4 ? KDHT_REASON_IP_OPTIONS : KDHT_REASON_EXT_HEADER;
}

/* The UDP header and the magic behind it: is it for us? */
static __always_inline int kdht_parse_udp(struct kdht_frame *f, const struct kdht_config *config)
{
	void *end = (void *)(long)f->ctx->data_end;
	struct udphdr *udp = f->l4;
	__be32 *magic = (void *)(udp + 1);

	if (f->end > f->ip_len || f->udp + sizeof(*udp) > f->end)
		return KDHT_REASON_BAD_IP;
	if (f->unusual != KDHT_GO_ON)
		return kdht_parse_unusual(f, config);
	if ((void *)(udp + 1) > end)
		return KDHT_REASON_BAD_IP;
	if (udp->dest != config->port || f->udp + sizeof(*udp) + sizeof(*magic) > f->end)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(magic + 1) > end || *magic != bpf_htonl(KDHT_MAGIC))
		return KDHT_REASON_NOT_OURS;
	f->udp_check = udp->check;
	if (f->version == 4 && kdht_fold(kdht_words(f->l3, sizeof(struct iphdr) / 4, 0)) != 0xffff)
		return KDHT_REASON_BAD_CHECKSUM;
	if (f->version == 6 && !f->udp_check)
		return KDHT_REASON_NO_CHECKSUM;
	f->udp_len = udp->len;
	if (bpf_ntohs(f->udp_len) != f->end - f->udp)
		return KDHT_REASON_BAD_IP;
	if (f->version == 6 && kdht_is_ipv4(f->source))
		return KDHT_REASON_BAD_ADDRESS; /* its reply would go to an IPv4 host, past all filters for IPv4 */
	if (kdht_is_martian(config, f->source))
		return KDHT_REASON_MARTIAN;
	f->source_port = udp->source;
	f->target_port = udp->dest;
	f->message_len = f->end - f->udp - sizeof(*udp);
	f->h = (void *)(udp + 1);
	if (f->message_len < KDHT_HEADER_LEN || (void *)(f->h + 1) > end)
		return KDHT_REASON_TRUNCATED;
	return KDHT_GO_ON;
}

static __always_inline int kdht_parse(struct kdht_frame *f, const struct kdht_xdp_state *state)
{
	const struct kdht_config *config = &state->config;
	__be16 protocol = kdht_parse_link(f);
	int reason = KDHT_REASON_NOT_OURS;

	if (!protocol || !kdht_is_for_us(f, state))
		return reason;

	f->unusual = KDHT_GO_ON;
	if (protocol == bpf_htons(ETH_P_IP))
		reason = kdht_parse_ipv4(f, config);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		reason = kdht_parse_ipv6(f, config);
	return reason == KDHT_GO_ON ? kdht_parse_udp(f, config) : reason;
}

#endif
