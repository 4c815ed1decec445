/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The table of hot records, which the XDP program answers from. The daemon writes it through its memory mapping.
 *
 * Sets of a few slots, each set under a sequence lock (kdht_seqlock.h): odd while the writer is in. Writers hold the GIL.
 * A record in a slot counts only while its bit in `valid` is set. The key of a slot stays when its record has
 * changed: so a hot key is hot again as soon as its new record is filled in.
 */
#ifndef KDHT_HOT_H
#define KDHT_HOT_H

#include "kdht_shared.h"

#define KDHT_HOT_SETS 512
#define KDHT_HOT_WAYS 4
#define KDHT_HOT_KEY_WORDS 3 /* a key, and four zeros behind it */
#define KDHT_HOT_VALUE_WORDS 138 /* KDHT_MAX_VALUE / 8 */

/* Why nothing is answered. */
#define KDHT_HOT_ASKS 0x01  /* readers are asked for their rights */
#define KDHT_HOT_ENDED 0x02 /* the node is at its end, or gives its records away */

struct kdht_hot_slot {
	__u64 key[KDHT_HOT_KEY_WORDS];
	__u64 version;
	__u64 expiry; /* Unix seconds; 0: none */
	__u64 sum;    /* of the value's words, for the checksum */
	__u32 flags;
	__u32 length; /* of the value */
	__u64 value[KDHT_HOT_VALUE_WORDS]; /* zeros behind its last byte, up to a whole word */
};

struct kdht_hot_set {
	__u32 sequence; /* odd while a slot is written; steps with every change of a key of the set */
	__u32 valid;    /* a bit for each slot */
	__u8 used[KDHT_HOT_WAYS]; /* the program has answered from the slot; outside of the sequence lock */
	__u32 pad[13]; /* to a cache line of its own */
	struct kdht_hot_slot slots[KDHT_HOT_WAYS];
};

/*
 * The lease: nothing is answered unless both times lie ahead. CLOCK_BOOTTIME in nanoseconds, which goes on while the host
 * is suspended.
 */
struct kdht_hot_table {
	__u64 loop_until; /* the socket's loop lives; it writes this after each poll */
	__u64 node_until; /* the event loop lives, and the node serves */
	__u64 drained;    /* all that came to the interface before this has been received from the sockets */
	__u32 forbidden;  /* not 0: nothing is answered, lease or not */
	__u32 pad[9];     /* to a cache line of its own */
	struct kdht_hot_set sets[KDHT_HOT_SETS];
};

/* The set of a key: not by its first bits, for all keys of a node share them. */
static inline __u32 kdht_hot_set_of(__u64 second_word)
{
	return second_word & (KDHT_HOT_SETS - 1);
}

#endif
