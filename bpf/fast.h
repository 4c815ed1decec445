/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The fast path: messages in frames without any surprise, which nearly all are. Everything lies at a known offset, for
 * each IP version, and the compiler keeps what it needs in registers. The verdict is that of the whole program, in the
 * same functions. What is not usual goes on to the whole program, unchanged and uncounted.
 */
#ifndef KDHT_FAST_H
#define KDHT_FAST_H

#include "hot.h"

#define KDHT_UNUSUAL (-2) /* in place of a reason or an XDP action */
#define KDHT_PLAIN_IPV4 0x45 /* version 4, no options */

/* Whether the IP header is whole, and says UDP in one piece without options. */
static __always_inline int kdht_usual_ipv4(struct kdht_plan *p)
{
	const struct iphdr *ip = p->l3;

	p->f->source = kdht_mapped(ip->saddr);
	p->f->target = kdht_mapped(ip->daddr);
	p->f->end = bpf_ntohs(ip->tot_len);
	return *(const __u8 *)ip == KDHT_PLAIN_IPV4 && ip->protocol == IPPROTO_UDP &&
	       !(ip->frag_off & bpf_htons(KDHT_IP_OFFSET | KDHT_IP_MORE));
}

static __always_inline int kdht_usual_ipv6(struct kdht_plan *p)
{
	const struct ipv6hdr *ip = p->l3;

	p->f->source = kdht_ip_at(&ip->saddr);
	p->f->target = kdht_ip_at(&ip->daddr);
	p->f->end = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	return ip->version == 6 && ip->nexthdr == IPPROTO_UDP;
}

static __always_inline int kdht_is_sound(const struct kdht_plan *p, const int version)
{
	if (version == 4)
		return kdht_fold(kdht_iphdr_sum(p->l3)) == 0xffff;
	return p->f->udp_check && !kdht_is_ipv4(p->f->source) && !kdht_is_ipv4(p->f->target);
}

/* Gives a reason, or KDHT_UNUSUAL: the whole program has to look. `version` is a constant. */
static __always_inline int kdht_parse_usual(struct kdht_plan *p, const struct kdht_xdp_state *state, const int version)
{
	void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
	struct kdht_frame *f = p->f;
	__u64 length = end - data;

	f->ip = sizeof(struct ethhdr);
	f->udp = version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	f->version = version;
	f->vlan = KDHT_UNTAGGED;
	p->l3 = data + f->ip;
	p->l4 = p->l3 + f->udp;
	p->h = (void *)(p->l4 + 1);
	if ((void *)(p->l4 + 1) > end || !(version == 4 ? kdht_usual_ipv4(p) : kdht_usual_ipv6(p)))
		return KDHT_UNUSUAL;
	if (f->end + f->ip > length || f->end < f->udp + sizeof(struct udphdr))
		return KDHT_UNUSUAL;
	f->target_port = p->l4->dest;
	if (f->target_port != p->config->port)
		return KDHT_REASON_NOT_OURS;
	if ((void *)(p->h + 1) > end || KDHT_AT(__be32, p->h, magic) != bpf_htonl(KDHT_MAGIC))
		return KDHT_UNUSUAL;
	f->udp_len = p->l4->len;
	f->udp_check = p->l4->check;
	f->source_port = p->l4->source;
	f->message_len = f->end - f->udp - sizeof(struct udphdr);
	if (bpf_ntohs(f->udp_len) != f->end - f->udp || f->message_len < KDHT_HEADER_LEN || !kdht_is_sound(p, version))
		return KDHT_UNUSUAL;
	if (!kdht_is_for_us(p, state) || f->generic || !kdht_is_own(p->config, f->target) ||
	    kdht_is_martian(p->config, f->source) || (f->udp_check && f->udp_check == kdht_fold(kdht_pseudo_sum(f))))
		return KDHT_UNUSUAL;
	return KDHT_GO_ON;
}

/* Gives an XDP action, or KDHT_UNUSUAL. */
static __always_inline int kdht_treat_usual(struct xdp_md *ctx, const struct kdht_xdp_state *state,
					    struct kdht_scratch *s, const int version)
{
	const struct kdht_xdp_settings *settings = &state->settings;
	struct kdht_frame frame;
	struct kdht_way way = {}; /* not all messages give all fields a value, and the verifier refuses to carry none along */
	struct kdht_plan plan = {.ctx = ctx, .config = &state->config, .s = s, .f = &frame, .way = &way};
	int reason, unroutable;

	reason = kdht_parse_usual(&plan, state, version);
	if (reason == KDHT_UNUSUAL)
		return KDHT_UNUSUAL;
	if (reason == KDHT_GO_ON) {
		reason = kdht_judge(&plan, settings);
		if (kdht_may_be_hot(&plan, reason))
			return kdht_keep(&plan, reason);
	}
	if (!kdht_goes_on(reason))
		return kdht_action(settings, kdht_count(reason));
	if (!(settings->flags & KDHT_XDP_TEST_RUN)) {
		unroutable = kdht_find_route(&plan, reason);
		if (unroutable != KDHT_GO_ON)
			return kdht_action(settings, kdht_count(unroutable));
	}
	kdht_rewrite(&plan, reason, 0);
	return kdht_sent(ctx, settings, s, reason);
}

#endif
