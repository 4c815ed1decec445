/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The program's maps. No packet uses half of a published value. The configuration is a map in a map, which is
 * exchanged under RCU. A bucket is a cell of two copies and a sequence, in an array that the daemon maps into its
 * memory: a reader asks again for the sequence after it has read (table.h). An element of a hash map would not do:
 * since Linux 6.1 the memory of a replaced element is used again at once, under the eyes of its readers.
 */
#ifndef KDHT_MAPS_H
#define KDHT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "kdht_shared.h"
#include "kdht_xdp.h"

struct kdht_state_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct kdht_xdp_state));
};

/* One element: a map with one element. A look-up costs next to nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct kdht_state_map);
} kdht_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KDHT_ID_BITS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct kdht_bucket_cell);
} kdht_buckets SEC(".maps");

/* Addresses by prefix, and what they may do: KDHT_MAY_READ and KDHT_MAY_WRITE. Replaced as a whole, too. */
struct kdht_prefix_trie {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, KDHT_MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, __builtin_offsetof(struct kdht_prefix, rights));
	__uint(value_size, sizeof(__u32));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct kdht_prefix_trie);
} kdht_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KDHT_REASON_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} kdht_counters SEC(".maps");

/* Senders and what they may still send. The least recently seen ones make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kdht_sender);
	__type(value, struct kdht_allowance);
} kdht_senders SEC(".maps");

/* What all addresses together that are not in kdht_senders may still send, by kind of request. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KDHT_RATE_KINDS);
	__type(key, __u32);
	__type(value, struct kdht_allowance);
} kdht_crowd SEC(".maps");

struct kdht_ip128 {
	__u64 high, low; /* as they lie in memory */
};

/* The kernel's last answer where packets for `target` go that came in at interface `from`. */
struct kdht_route {
	struct kdht_ip128 target;
	__u64 until; /* CLOCK_MONOTONIC_COARSE, nanoseconds */
	__u8 macs[2 * 6]; /* as they stand in an Ethernet header: to, from */
	__u32 from;
	__u32 ifindex;
	__u32 longest; /* the longest IP packet that the answer is for */
};

#define KDHT_ROUTE_BITS 10

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << KDHT_ROUTE_BITS);
	__type(key, __u32);
	__type(value, struct kdht_route);
} kdht_routes SEC(".maps");

/* The search for the next hop. */
struct kdht_walk {
	__u64 key[4];    /* big-endian words, zeros behind the 160 bits */
	__u64 closer[3]; /* buckets still to be searched; bucket 0 is the top bit of the first word */
	__u64 least; /* the distance of `best`, its first word */
	__u32 number; /* of the contact that was found: where its route is kept */
	__u32 best;  /* the nearest of the contacts that were compared */
	__u32 skip;
	__u32 found;
	__u32 gives_up; /* a bucket on the way is too wide for a search here, or the writer won every race */
	struct kdht_ip128 ip; /* of the hop that was found */
	__be16 port;
};

/* What a CPU last read from the clock. It stays until the kernel's next tick, which moves the clock. */
struct kdht_clock {
	__u64 tick;   /* jiffies then; 0: read it anew */
	__s64 offset; /* settings.clock_offset then */
	__u64 second; /* when the last second of the wall clock began, nanoseconds */
	__u64 number; /* of that second */
};

/* What a frame says. */
struct kdht_frame {
	struct kdht_ip128 source, target;
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
};

/* The way on that a message takes, and what a client's gets. */
struct kdht_way {
	struct kdht_ip128 source, target;
	__be16 source_port, target_port;
	__u16 max_reply;
	__u8 hops;
	__u8 forwarded;
};

/* An answer's headers: the frame ends them, so its beginning depends on the IP version. */
#define KDHT_FRONT_MESSAGE 64 /* where the message begins: in whole words */
#define KDHT_FRONT (KDHT_FRONT_MESSAGE + KDHT_HEADER_LEN)
#define KDHT_FRONT_IPV4 (KDHT_FRONT_MESSAGE - 14 - 20 - 8)
#define KDHT_FRONT_IPV6 (KDHT_FRONT_MESSAGE - 14 - 40 - 8)

/*
 * Data of the current packet, for all steps. The verifier remembers nothing of what lies here, so it walks the next
 * step once, and not once for each way through the last one. The body is copied only if it is read.
 */
struct kdht_scratch {
	struct kdht_clock known; /* with `clock` and `now` it outlives the packet */
	struct kdht_frame frame;
	struct kdht_way way;
	__u64 clock; /* CLOCK_MONOTONIC_COARSE, nanoseconds */
	__u64 boot;  /* CLOCK_BOOTTIME, nanoseconds, at the CPU's first packet of this tick */
	__u32 now;   /* unix seconds */
	__u64 body_tag; /* that is right for the body */
	struct bpf_fib_lookup fib;
	struct kdht_route route;
	struct kdht_walk walk;
	int reason;   /* a message that may be hot: the reason to pass it up */
	__u32 may_be_hot;
	__u64 sum;    /* of an answer's value */
	__u64 front[KDHT_FRONT / 8]; /* what stands before an answer's body */
	__u8 body[KDHT_MAX_BODY + 8] __attribute__((aligned(8))); /* zeros follow the body, so that its last word can be read
								     whole */
	__u32 len;    /* of the body */
	__u8 beyond[KDHT_FRONT_IPV4 - KDHT_FRONT_IPV6]; /* unused: the verifier takes the longest frame to begin at either place */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kdht_scratch);
} kdht_scratches SEC(".maps");

#endif
