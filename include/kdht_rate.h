/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * How many requests one address may send: buckets of tokens, for the XDP program and the socket datapath.
 *
 * Each kind of request has a bucket of its own. A bucket is a second deep and counts nanoseconds: a request takes
 * its price. An IPv6 address counts by its /64, which is what one customer has. The requests of all new addresses
 * take from one more bucket, the crowd's: a new address for each request must not evade the limit.
 */
#ifndef KDHT_RATE_H
#define KDHT_RATE_H

#include "kdht_shared.h"

#define KDHT_RATE_SECOND 1000000000ull /* nanoseconds */
#define KDHT_COSTLY_WEIGHT 8 /* a QUORUM_GET, WATCH or TRACE costs the cluster about so many GETs */
#define KDHT_CROWD_FACTOR 16 /* the rate of all new addresses together, as a multiple of one address's */

enum kdht_rate_kind {
	KDHT_RATE_READS,  /* GET */
	KDHT_RATE_COSTLY, /* QUORUM_GET, WATCH, TRACE */
	KDHT_RATE_WRITES, /* PUT, DELETE */
	KDHT_RATE_KINDS
};

/* Nanoseconds that each kind of request takes from its bucket; 0: no limit. */
struct kdht_rates {
	__u64 prices[KDHT_RATE_KINDS];
};

struct kdht_sender {
	__u64 network; /* the low half of an IPv4-mapped address, or the /64 of an IPv6 one */
	__u32 kind;
	__u32 pad;
};

struct kdht_allowance {
	__u64 since; /* a monotonic clock, nanoseconds */
	__u64 budget;
};

/* An unknown op is as cheap as a GET: it is dropped at the next check. */
static inline __u32 kdht_rate_kind_of(__u8 op)
{
	if (KDHT_IS_WRITE(op))
		return KDHT_RATE_WRITES;
	if (op == KDHT_OP_QUORUM_GET || op == KDHT_OP_WATCH || op == KDHT_OP_TRACE || op == KDHT_OP_MEMBERS)
		return KDHT_RATE_COSTLY;
	return KDHT_RATE_READS;
}

static inline __u64 kdht_rate_depth(__u64 price)
{
	return price > KDHT_RATE_SECOND ? price : KDHT_RATE_SECOND;
}

/* Take `price` from the bucket. 0 if it has too little; then it keeps what it has. */
static inline int kdht_rate_take(struct kdht_allowance *held, __u64 now, __u64 price)
{
	__u64 depth = kdht_rate_depth(price), budget = held->budget;

	if (now > held->since) /* else another processor was here with a later clock */
		budget += now - held->since;
	if (budget > depth)
		budget = depth;
	held->since = now;
	held->budget = budget < price ? budget : budget - price;
	return budget >= price;
}

#endif
