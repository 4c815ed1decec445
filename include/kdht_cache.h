/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache of records, for user space only: sets of a few slots, each set under a sequence lock.
 * Writers hold the GIL, so there is one at a time; readers need no lock.
 */
#ifndef KDHT_CACHE_H
#define KDHT_CACHE_H

#include "kdht_seqlock.h"
#include "kdht_shared.h"

/* Slots of a set. With one, a seventh of 300 keys in 2,048 slots evict each other by chance. */
#define KDHT_CACHE_SLOTS 4

/*
 * Most keys are not in the cache. To find that out, a reader looks at the set alone. So the sets lie side by side,
 * and the slots, which are pages of their own, are not touched: one cache line, not four pages. For 32 nodes those
 * pages were 7 of 8 page faults of a PUT.
 */
struct kdht_cache_set {
	__u32 sequence; /* odd while a slot is written; steps with every change of a key of the set */
	__u32 marks[KDHT_CACHE_SLOTS]; /* for each slot some bits of its key; 0: empty */
};

struct kdht_cache_slot {
	__u8 key[KDHT_ID_LEN];
	__u32 length; /* of the value */
	__u64 version;
	__u64 expiry; /* Unix seconds; 0: none */
	__u32 flags;
	__u32 answers; /* from this slot */
	__u8 value[KDHT_MAX_VALUE];
};

#endif
