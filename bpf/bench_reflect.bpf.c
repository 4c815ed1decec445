// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * For bench/ebpf.py only: a generator that sends what it is given, the bare minimum that a
 * forwarding program could do, a receiver that counts, and a program that gives another one
 * the same frame again and again.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#define START_LEN 160
#define REQUEST_ID (14 + 20 + 8 + 8) /* in a frame by IPv4 */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} received SEC(".maps");

/* What the frames begin with. The kernel uses their pages again as they come back, rewritten. */
struct start {
	__u64 words[START_LEN / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct start);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

/* The program whose time is taken. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} next SEC(".maps");

static __always_inline int write_start(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct start *fresh = bpf_map_lookup_elem(&starts, &zero);

	if (!fresh || data + sizeof(*fresh) > end)
		return -1;
	__builtin_memcpy(data, fresh, sizeof(*fresh));
	return 0;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	return write_start(ctx) ? XDP_ABORTED : XDP_TX;
}

SEC("xdp")
int restore(struct xdp_md *ctx)
{
	if (!write_start(ctx))
		bpf_tail_call(ctx, &next, 0);
	return XDP_ABORTED;
}

/* Requests with IDs of their own: of copies of one request only a few are answered. Without a UDP checksum. */
static __always_inline int write_request(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	__u64 *number = bpf_map_lookup_elem(&numbers, &zero);

	if (!number || write_start(ctx) || data + START_LEN > end)
		return -1;
	*(__u64 *)(data + REQUEST_ID) = ++*number;
	return 0;
}

SEC("xdp")
int generate_requests(struct xdp_md *ctx)
{
	return write_request(ctx) ? XDP_ABORTED : XDP_TX;
}

SEC("xdp")
int restore_requests(struct xdp_md *ctx)
{
	if (!write_request(ctx))
		bpf_tail_call(ctx, &next, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return XDP_TX;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&received, &zero);

	if (counter)
		(*counter)++;
	return XDP_DROP;
}

/* The kernel knows no name for this dual license. */
char LICENSE[] SEC("license") = "GPL";
