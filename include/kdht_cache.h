/* SPDX-License-Identifier: Apache-2.0
 *
 * A record at hand, and the sequence lock that guards it: for user space only. Writers take turns
 * by other means; readers wait for nobody and look again whether what they read was whole.
 */
#ifndef KDHT_CACHE_H
#define KDHT_CACHE_H

#include "kdht_shared.h"

#define KDHT_CACHE_SLOTS 4 /* slots of a set, so that few keys lack one while there are free ones */

/* What must be looked at for a key that is not here, side by side for all sets: a set's slots are pages of their own. */
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
	__u8 value[KDHT_MAX_VALUE];
};

static inline __u32 kdht_cache_begin(const __u32 *sequence)
{
	return __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
}

/* Whether what was read since kdht_cache_begin is whole. */
static inline int kdht_cache_same(const __u32 *sequence, __u32 begun)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(sequence, __ATOMIC_RELAXED) == begun;
}

static inline void kdht_cache_open(__u32 *sequence)
{
	__atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void kdht_cache_close(__u32 *sequence)
{
	__atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELEASE);
}

#endif
