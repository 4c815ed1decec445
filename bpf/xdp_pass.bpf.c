// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Lets everything pass. A veth takes frames that an XDP program sends (XDP_TX, redirect)
 * only while its peer has an XDP program: the laboratory puts this one on its bridge's side.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* The kernel knows no name for this dual license. */
char LICENSE[] SEC("license") = "GPL";
