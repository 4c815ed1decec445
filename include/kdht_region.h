/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared mapping that holds one node's routing state, for user space only.
 *
 * A cell is two copies and a sequence (kdht_seqlock.h). The writer fills the copy that is not current, then
 * steps the sequence. A reader reads the current copy, then checks that the sequence is still the same. One
 * writer, any number of readers, in any process. Why two copies: with one, a writer that is killed half way
 * would block its readers for ever.
 */
#ifndef KDHT_REGION_H
#define KDHT_REGION_H

#include "kdht_nearest.h"
#include "kdht_seqlock.h"
#include "kdht_shared.h"

#define KDHT_REGION_MAGIC 0x4b444854524e0004ull /* layout version in the low bits */
#define KDHT_LANES 32
#define KDHT_STRANGERS 8

struct kdht_config_cell {
	__u32 sequence;
	__u32 pad;
	struct kdht_config copies[2];
};

/* Who may send requests, longest prefixes first. */
struct kdht_prefix_cell {
	__u32 sequence;
	__u32 counts[2];
	__u32 pad;
	struct kdht_prefix copies[2][KDHT_MAX_PREFIXES];
};

/* A sender of messages with a wrong tag, for whom an operator asks. Written by one thread and read by others without
 * care: a half written one misleads for a moment. */
struct kdht_stranger {
	__u8 ip[16];
	__be16 port;
	__u16 pad;
	__u32 seen; /* Unix second of the last message; 0: none */
};

/* One thread's own copy of the configuration, and its counters: no thread waits for another's cache line. */
struct kdht_lane {
	__u32 config_sequence; /* of the copy; 0: none */
	__u32 pad;
	struct kdht_config config;
	__u64 reasons[KDHT_REASON_COUNT];
	struct kdht_stranger strangers[KDHT_STRANGERS]; /* the last ones */
	__u32 next_stranger;
} __attribute__((aligned(64)));

struct kdht_region {
	__u64 magic;
	struct kdht_config_cell config;
	struct kdht_lane lanes[KDHT_LANES];
	struct kdht_bucket_cell buckets[KDHT_ID_BITS];
	struct kdht_prefix_cell prefixes; /* its pages cost nothing while it is empty */
};

#endif
