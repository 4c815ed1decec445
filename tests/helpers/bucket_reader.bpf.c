// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Reads buckets as fast as it can while a writer replaces them: by the way of the XDP program, and from a hash map
 * without preallocation. tests/root/test_bucket_races.py has the contents.
 */
#include "table.h"

#define ROUNDS 1000 /* of one run */

enum { READS, TORN, GIVEN_UP };

/* How buckets were published once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KDHT_ID_BITS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct kdht_bucket);
} hashed_buckets SEC(".maps");

static __always_inline void add(__u32 index)
{
	__u64 *counter = bpf_map_lookup_elem(&kdht_counters, &index);

	if (counter)
		(*counter)++;
}

/* Contact `i` of version `n` has the address 0:n:i and the port n. The nearest is the last one in odd versions. */
static __always_inline void check(const struct kdht_walk *walk, __u32 index)
{
	__u32 n = bpf_ntohl((__u32)walk->ip.low), i = bpf_ntohl(walk->ip.low >> 32);

	add(READS);
	if (n >> 31 != index || i != (n & 1 ? KDHT_K - 1 : 0) || bpf_ntohs(walk->port) != (n & 0xffff))
		add(TORN);
}

static long read_cell(__u32 round, void *context)
{
	struct kdht_walk *walk = *(struct kdht_walk **)context;
	__u32 index = round & 1;

	walk->skip = walk->gives_up = 0;
	kdht_look(index, walk);
	if (walk->gives_up)
		add(GIVEN_UP);
	else
		check(walk, index);
	return 0;
}

static long read_hashed(__u32 round, void *context)
{
	struct kdht_walk *walk = *(struct kdht_walk **)context;
	__u32 index = round & 1, at;
	struct kdht_bucket *bucket = bpf_map_lookup_elem(&hashed_buckets, &index);

	if (!bucket)
		return 0;
	at = kdht_nearest(bucket, walk);
	if (at >= KDHT_K)
		return 0;
	walk->ip = kdht_ip_at(bucket->contacts[at].ip);
	walk->port = bucket->contacts[at].port;
	check(walk, index);
	return 0;
}

static __always_inline struct kdht_walk *walk_of_cpu(void)
{
	__u32 zero = 0;
	struct kdht_scratch *scratch = bpf_map_lookup_elem(&kdht_scratches, &zero);

	return scratch ? &scratch->walk : 0;
}

SEC("xdp")
int read_cells(struct xdp_md *ctx)
{
	struct kdht_walk *walk = walk_of_cpu();

	if (walk)
		bpf_loop(ROUNDS, read_cell, &walk, 0);
	return XDP_PASS;
}

SEC("xdp")
int read_hash_map(struct xdp_md *ctx)
{
	struct kdht_walk *walk = walk_of_cpu();

	if (walk)
		bpf_loop(ROUNDS, read_hashed, &walk, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
