/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the XDP program and its loader share beside the routing state.
 */
#ifndef KDHT_XDP_H
#define KDHT_XDP_H

#include "kdht_nearest.h"
#include "kdht_rate.h"
#include "kdht_shared.h"

#define KDHT_XDP_LAYOUT 7 /* of all maps. With another number the maps of an older program are not used again */
#define KDHT_XDP_FIXED_TIME 0x01 /* `now` is settings.now: for replays */
#define KDHT_XDP_TEST_RUN 0x02   /* no neighbour look-up; the result is (reason << 8) | action */

struct kdht_xdp_settings {
	__s64 clock_offset;  /* nanoseconds: wall clock minus CLOCK_MONOTONIC */
	__u32 now;           /* unix seconds, with KDHT_XDP_FIXED_TIME */
	__u32 flags;
	__be32 only;         /* not 0: all pass up but messages whose request IDs begin so */
	__u32 pad;
	struct kdht_rates rates; /* of clients */
};

#define KDHT_MAX_LINKS 32
#define KDHT_UNTAGGED 0 /* in place of a VLAN's number + 1 */

#define KDHT_LINK_GENERIC 0x01 /* the program runs in generic mode there, or perhaps does */

/* A network that frames may come from: an interface, or a VLAN of it, and the address that the kernel has there. */
struct kdht_link {
	__u32 ifindex; /* where the frame comes in */
	__u32 device;  /* the VLAN's own interface; without a VLAN the same as ifindex */
	__u16 vlan;    /* number + 1, or KDHT_UNTAGGED */
	__u8 mac[6];
	__u32 flags;
};

/* The state that every packet needs, published as one value. */
struct kdht_xdp_state {
	struct kdht_config config;
	struct kdht_xdp_settings settings;
	__u32 link_count;
	struct kdht_link links[KDHT_MAX_LINKS];
};

#endif
