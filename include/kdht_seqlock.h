/* SPDX-License-Identifier: Apache-2.0
 *
 * A sequence lock, for user space only: one writer at a time, and readers that never wait.
 *
 * A reader notes the sequence, reads, and asks whether the sequence is still the same; if not, it
 * reads again. See Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", 2012.
 *
 * Two uses, one lock. Data in one copy (kdht_cache.h): the sequence is odd while the writer is in.
 * Data in two copies (kdht_region.h): the low bit names the current copy, and the writer fills the other.
 */
#ifndef KDHT_SEQLOCK_H
#define KDHT_SEQLOCK_H

#include <linux/types.h>

static inline __u32 kdht_seq_begin(const __u32 *sequence)
{
	return __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
}

/* Whether what was read since kdht_seq_begin is one whole state. */
static inline int kdht_seq_same(const __u32 *sequence, __u32 begun)
{
	/* The reads before this fence may not move behind the second look at the sequence. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(sequence, __ATOMIC_RELAXED) == begun;
}

/* The writer's last step. A reader that sees the new sequence sees all that was written before. */
static inline void kdht_seq_step(__u32 *sequence)
{
	__atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELEASE);
}

/* Before the writer writes: a reader that sees a new byte must also see the step before it, and so read again. */
static inline void kdht_seq_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* One copy: the sequence becomes odd. kdht_seq_step makes it even again. */
static inline void kdht_seq_open(__u32 *sequence)
{
	__atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELAXED);
	kdht_seq_fence();
}

#endif
