/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The table of hot records, and which messages the program that answers from it (hot_answer.h) has to see.
 * docs/design/hot.md says what makes its answers exact.
 */
#ifndef KDHT_BPF_HOT_H
#define KDHT_BPF_HOT_H

#include "kdht_hot.h"
#include "outcome.h"

#define KDHT_MAYBE_HOT (-3) /* in place of a reason or an XDP action: the program for hot records looks */

#define KDHT_WRITERS_BITS 12

struct kdht_hot_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct kdht_hot_table));
};

/* One element: the daemon's table, from the first hot record on. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct kdht_hot_map);
} kdht_hot SEC(".maps");

/* When a client's last write passed up, by a hash of its address; CLOCK_BOOTTIME, nanoseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << KDHT_WRITERS_BITS);
	__type(key, __u32);
	__type(value, __u64);
} kdht_writers SEC(".maps");

static __always_inline __u64 kdht_mixed(struct kdht_ip128 ip, __u64 more)
{
	__u64 mixed = (ip.high ^ more) * 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ mixed >> 32 ^ ip.low) * 0x9e3779b97f4a7c15ull;
	return mixed ^ mixed >> 29;
}

static __always_inline struct kdht_hot_table *kdht_hot_table(void)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&kdht_hot, &zero);

	return map ? bpf_map_lookup_elem(map, &zero) : 0;
}

/* A global function: the verifier walks it once. */
__noinline int kdht_note_writer(__u32 index)
{
	__u64 *last = bpf_map_lookup_elem(&kdht_writers, &index);

	if (last)
		*last = bpf_ktime_get_boot_ns();
	return 0;
}

/* The place of a client in kdht_writers. `header`: of any request of that client. */
static __always_inline __u32 kdht_writer_of(const struct kdht_frame *f, const struct kdht_header *header)
{
	struct kdht_ip128 ip = f->source;
	__be16 port = f->source_port;

	if (header->flags & KDHT_FLAG_FORWARDED) {
		ip = kdht_ip_at(header->client_ip);
		port = KDHT_AT(__be16, header, client_port);
	}
	return kdht_mixed(ip, port) >> (64 - KDHT_WRITERS_BITS);
}

/*
 * Look at a message that was judged. 1: it ends here, and the program for hot records shall see it. A write that ends
 * here is noted, for later reads of its client have to wait behind it.
 */
static __always_inline int kdht_may_be_hot(const struct kdht_plan *p, int reason)
{
	int writes;

	if (reason != KDHT_REASON_OWNER && reason != KDHT_REASON_ATTEMPT_ENDS && reason != KDHT_REASON_NOT_READY)
		return 0;
	writes = kdht_is_write(p->h);
	if (!writes && p->h->op != KDHT_OP_GET)
		return 0;
	if (!kdht_hot_table())
		return 0;
	if (writes)
		kdht_note_writer(kdht_writer_of(p->f, p->h));
	return !writes && reason != KDHT_REASON_NOT_READY;
}

/* Whether its headers are where that program expects them: no VLAN tag, no options. */
static __always_inline int kdht_is_hot_frame(const struct kdht_frame *f)
{
	return f->ip == sizeof(struct ethhdr) &&
	       f->udp == (f->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

/* For that program. */
static __always_inline int kdht_keep(const struct kdht_plan *p, int reason)
{
	struct kdht_frame *f = &p->s->frame;

	/* Not as wholes: some fields have no value, and the verifier refuses to copy them. */
	f->source = p->f->source;
	f->target = p->f->target;
	f->source_port = p->f->source_port;
	f->target_port = p->f->target_port;
	f->udp = p->f->udp;
	f->version = p->f->version;
	f->device = p->f->device;
	f->vlan = p->f->vlan;
	p->s->way.max_reply = p->way->max_reply;
	p->s->reason = reason;
	return KDHT_MAYBE_HOT;
}

#endif
