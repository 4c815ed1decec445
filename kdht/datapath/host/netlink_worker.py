"""The process that speaks netlink: `python -m kdht.datapath.host.netlink_worker`, started by netlink.py.

Contract: standard input has questions, one JSON list a line: a function's name and its arguments. Standard output
has an answer for each, one JSON object a line: `value`, or `refused`, why not. It ends with its input, so it never outlives
who asks. pyroute2 with its imports is 10 MiB. A node would keep them, and it asks at its start only. Only the rule of nft_compat
needs pyroute2.
"""

import errno
import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

from kdht.datapath.host import rtnetlink

INET = 1
"""NFPROTO_INET: a table for both families."""
NFQ_FLAG_BYPASS = 0x01
NFQ_FLAG_CPU_FANOUT = 0x02
TARGET_REVISION = 3
XDP_MODES = {1: "native", 2: "generic", 3: "offloaded", 4: "several"}
"""By the kernel's XDP_ATTACHED_DRV, _SKB, _HW and _MULTI."""


class Refused(Exception):
    """The kernel refused. The message says what to do."""


def add_rule(table: str, chain: str, first: int, total: int, by_cpu: bool) -> None:
    """Append `queue, with bypass` to a chain, through nft_compat."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables(nfgen_family=INET) as nft:
            nft.rule("add", table=table, chain=chain, expressions=[[_target(first, total, by_cpu)]])
    except NetlinkError as error:
        why = {
            errno.EPERM: "this needs root (CAP_NET_ADMIN)",
            errno.ENOENT: "this kernel has no NFQUEUE target for nftables (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)",
            errno.ERANGE: "queue numbers end at 65535",
        }.get(error.code, errno.errorcode.get(error.code, str(error.code)))
        raise Refused(f"cannot add the queue rule to table inet {table}, chain {chain}: {why}") from error


def _target(first: int, total: int, by_cpu: bool) -> dict[str, Any]:
    """struct xt_NFQ_info_v3 {queuenum, queues_total, flags}, padded to 8 bytes, as an expression."""
    flags = NFQ_FLAG_BYPASS | (NFQ_FLAG_CPU_FANOUT if by_cpu else 0)
    return {
        "attrs": [
            ("NFTA_EXPR_NAME", "target"),
            (
                "NFTA_EXPR_DATA",
                {
                    "attrs": [
                        ("NFTA_TARGET_NAME", "NFQUEUE"),
                        ("NFTA_TARGET_REV", TARGET_REVISION),
                        ("NFTA_TARGET_INFO", struct.pack("=HHHxx", first, total, flags)),
                    ]
                },
            ),
        ]
    }


def all_hosts() -> list[tuple[str, str]]:
    """Interface and address, as text, of every address of this network namespace."""
    names = {link.ifindex: link.name for link in rtnetlink.links()}
    # An interface that was made in between has no name here yet.
    return [(names[index], host) for index, host in rtnetlink.addresses() if index in names]


def xdp_of(interface: str) -> tuple[str, int]:
    """Mode and number of the XDP program of an interface."""
    for link in rtnetlink.links():
        if link.name == interface and link.xdp_attached:
            return XDP_MODES.get(link.xdp_attached, ""), link.xdp_program
    return "", 0


def mtu_of(interface: str) -> int | None:
    """The most bytes of a packet; None: there is no such interface."""
    return next((link.mtu for link in rtnetlink.links() if link.name == interface), None)


def vlans() -> list[tuple[str, int, int, str]]:
    """Name, index, number and lower interface of each VLAN."""
    found = rtnetlink.links()
    names = {link.ifindex: link.name for link in found}
    return [
        (link.name, link.ifindex, link.vlan, names.get(link.lower, ""))
        for link in found
        if link.vlan is not None
    ]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (add_rule, all_hosts, xdp_of, mtu_of, vlans)
}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the worker ends with its input
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"value": FUNCTIONS[name](*arguments)}
        except Refused as refused:
            answer = {"refused": str(refused)}
        except OSError as error:
            answer = {"refused": f"netlink: {error}"}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:  # the daemon was killed; nobody waits for the answer
            os._exit(0)  # without the interpreter's own try to flush


if __name__ == "__main__":
    main()
