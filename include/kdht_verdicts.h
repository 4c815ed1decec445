/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The verdict of each reason, as a table, for the routing core, the replays and the XDP program.
 */
#ifndef KDHT_VERDICTS_H
#define KDHT_VERDICTS_H

#include "kdht_shared.h"

#define X(name, value, verdict) [value] = KDHT_##verdict,
static const __u8 kdht_verdict_of[KDHT_REASON_COUNT] = {KDHT_REASONS(X)};
#undef X

#endif
