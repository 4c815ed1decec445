/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the XDP program and its loader share beside the routing state.
 */
#ifndef KDHT_XDP_H
#define KDHT_XDP_H

#include "kdht_rate.h"
#include "kdht_shared.h"

#define KDHT_XDP_LAYOUT 3 /* of all maps. With another number the maps of an older program are not used again */
#define KDHT_XDP_FIXED_TIME 0x01 /* `now` is settings.now: for replays */
#define KDHT_XDP_TEST_RUN 0x02   /* no neighbour look-up; the result is (reason << 8) | action */

struct kdht_xdp_settings {
	__s64 clock_offset;  /* nanoseconds: wall clock minus CLOCK_MONOTONIC */
	__u32 now;           /* unix seconds, with KDHT_XDP_FIXED_TIME */
	__u32 flags;
	struct kdht_rates rates; /* of clients */
};

/* The state that every packet needs, published as one value. */
struct kdht_xdp_state {
	struct kdht_config config;
	struct kdht_xdp_settings settings;
};

struct kdht_vlan {
	__u32 ifindex;
	__u32 number;
};

#endif
