/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Whether a GET may be answered here, and the record for it: the lease, writes of the same client, copies of one request,
 * and the record's copy out of the table.
 */
#ifndef KDHT_HOT_RECORD_H
#define KDHT_HOT_RECORD_H

#include "hot.h"

#define KDHT_COPIES_BITS 11 /* 8 KiB: it shares the cache nearest to the processor with the rest */
#define KDHT_COPIES 8   /* of one request that are answered here */
#define KDHT_COUNT_MASK 15
#define KDHT_CHUNK 6 /* words that are copied at once: KDHT_HOT_VALUE_WORDS is a multiple of it */
#define KDHT_WORD(start, i) (((__u64 *)(start))[i])

/* Requests that were answered: 28 bits tell one from others in its place, four count. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << KDHT_COPIES_BITS);
	__type(key, __u32);
	__type(value, __u32);
} kdht_copies SEC(".maps");

/* Whether the daemon lives and serves: its socket's loop and its event loop did lately. */
static __always_inline int kdht_has_lease(const struct kdht_hot_table *table, __u64 now)
{
	return !*(const volatile __u32 *)&table->forbidden && now < *(const volatile __u64 *)&table->loop_until &&
	       now < *(const volatile __u64 *)&table->node_until;
}

/* The wall clock's seconds, rounded up as _cache.pyx does. */
static __always_inline __u32 kdht_ceiling(const struct kdht_xdp_settings *settings, const struct kdht_scratch *s)
{
	if (settings->flags & KDHT_XDP_FIXED_TIME)
		return s->now;
	return s->now + (s->clock + settings->clock_offset != s->known.second);
}

static __always_inline struct kdht_header *kdht_answer(struct kdht_scratch *s)
{
	return (void *)s->front + KDHT_FRONT_MESSAGE;
}

/*
 * Copy the record of the key in the answer's header to the scratch: the answer's body. Gives its length, or -1.
 * What was copied while the daemon wrote counts for nothing.
 */
static __always_inline int kdht_copy_record(struct kdht_scratch *s, __u32 now)
{
	struct kdht_hot_table *table = kdht_hot_table();
	struct kdht_hot_slot *slot;
	struct kdht_hot_set *set;
	__u32 begun, length, way, last;
	__u64 key[KDHT_HOT_KEY_WORDS], left = 0, expiry;
	const void *at;

	if (!s || !table)
		return -1;
	at = kdht_answer(s)->key;
	key[0] = *(const __u64 *)at;
	key[1] = *(const __u64 *)(at + 8);
	key[2] = *(const __u32 *)(at + 16);
	set = &table->sets[kdht_hot_set_of(key[1])];
	begun = kdht_begin(&set->sequence);
	for (way = 0; way < KDHT_HOT_WAYS; way++) {
		slot = &set->slots[way];
		if (set->valid >> way & 1 && slot->key[0] == key[0] && slot->key[1] == key[1] && slot->key[2] == key[2])
			break;
	}
	if (begun & 1 || way >= KDHT_HOT_WAYS)
		return -1;
	barrier_var(way); /* Linux 6.1 does not learn its bound from the loop */
	way &= KDHT_HOT_WAYS - 1;
	slot = &set->slots[way];
	length = slot->length;
	expiry = slot->expiry;
	if (length > KDHT_MAX_VALUE || (expiry && expiry <= now + 1ull))
		return -1; /* in its last second its end is the daemon's to see, whose clock is the exact one */
	if (expiry)
		left = expiry - now > 0xffffffffull ? 0xffffffffull : expiry - now;
	KDHT_WORD(s->body, 0) = bpf_cpu_to_be64(slot->version);
	KDHT_WORD(s->body, 1) = (__u64)bpf_htonl(slot->flags) << 32 | bpf_htonl(left);
	for (__u32 i = 0; i < KDHT_HOT_VALUE_WORDS; i += KDHT_CHUNK) {
		if (8 * i >= length)
			break;
#pragma unroll
		for (int j = 0; j < KDHT_CHUNK; j++)
			KDHT_WORD(s->body, i + j + 2) = slot->value[i + j];
	}
	last = (length + 7) / 8;
	barrier_var(last);
	if (last > KDHT_HOT_VALUE_WORDS)
		return -1;
	KDHT_WORD(s->body, last + 2) = 0;
	s->sum = slot->sum;
	if (!kdht_is_same(&set->sequence, begun))
		return -1;
	if (!set->used[way])
		set->used[way] = 1;
	return KDHT_RECORD_LEN + length;
}

/*
 * Whether this request was answered so often that the socket's loop has to see it (_seen.pyx). In two halves: the place
 * in the table is seldom in a cache near the processor, so it is read before the record is copied and used behind that.
 */
struct kdht_copy {
	__u32 *seen;
	__u32 mark, before;
};

static __always_inline int kdht_find_copy(struct kdht_copy *copy, const struct kdht_scratch *s,
					  const struct kdht_header *h)
{
	__u64 tag = KDHT_AT(__u64, h, header_tag), mark;
	__u32 index;

	if (h->flags & KDHT_FLAG_FORWARDED && tag)
		mark = tag ^ KDHT_AT(__u64, h, body_tag);
	else
		mark = kdht_mixed(s->frame.source, KDHT_AT(__u64, h, request_id) ^ (__u64)s->now << 16 ^ s->frame.source_port);
	mark *= 0x9e3779b97f4a7c15ull;
	index = mark >> (64 - KDHT_COPIES_BITS);
	copy->mark = (mark >> 16) & ~(__u32)KDHT_COUNT_MASK;
	copy->seen = bpf_map_lookup_elem(&kdht_copies, &index);
	if (!copy->seen)
		return -1;
	copy->before = *(const volatile __u32 *)copy->seen;
	return 0;
}

static __always_inline int kdht_is_copy(const struct kdht_copy *copy)
{
	if ((copy->before & ~KDHT_COUNT_MASK) != copy->mark) {
		*copy->seen = copy->mark | 1;
		return 0;
	}
	if ((copy->before & KDHT_COUNT_MASK) >= KDHT_COPIES)
		return 1;
	*copy->seen = copy->before + 1;
	return 0;
}

/* Whether a write of the same client may wait in a socket still. */
static __always_inline int kdht_has_written(const struct kdht_scratch *s, const struct kdht_hot_table *table,
					    const struct kdht_header *h)
{
	__u32 index = kdht_writer_of(&s->frame, h);
	__u64 *last = bpf_map_lookup_elem(&kdht_writers, &index);

	return !last || (*last && *last >= *(const volatile __u64 *)&table->drained);
}

#endif
