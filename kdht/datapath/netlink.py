"""What pyroute2 does for the datapaths: the NFQUEUE rule that nft cannot write, and addresses.

nft's own `queue` statement needs nft_queue in the kernel. Where that is missing, the same
NFQUEUE exists as an xtables target, which a rule may hold through nft_compat; nft has no
syntax for it. Every call runs in a thread of its own, in the caller's network namespace:
pyroute2 brings an event loop, and a thread has at most one.
"""

import errno
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from kdht.errors import DatapathError
from kdht.wire import Address

T = TypeVar("T")

INET = 1
"""NFPROTO_INET: a table for both families."""
NFQ_FLAG_BYPASS = 0x01
NFQ_FLAG_CPU_FANOUT = 0x02
TARGET_REVISION = 3


class Queue(NamedTuple):
    """Where packets are diverted to: queues `first` to `first + total - 1`."""

    first: int
    total: int
    by_cpu: bool
    """One queue per receiving CPU; otherwise a hash of the addresses chooses."""

    @property
    def last(self) -> int:
        return self.first + self.total - 1


class XdpState(NamedTuple):
    """What an interface has of XDP."""

    mode: str
    """"native", "generic", "offloaded", "several", or "" without a program."""
    program: int
    """The program's number, 0 without one."""


class Vlan(NamedTuple):
    """An interface that is a VLAN of another."""

    name: str
    ifindex: int
    number: int
    lower: str


def add_queue_rule(table: str, chain: str, queue: Queue) -> None:
    """Append `queue, with bypass` to a chain, through nft_compat.

    Raises DatapathError: there is no such chain, the kernel has no NFQUEUE target, or the
    target refuses these numbers.
    """
    _call(_add_rule, table, chain, _target(queue))


def interfaces_of(addresses: list[Address]) -> list[str]:
    """The interfaces, other than lo, that hold any of these addresses; sorted."""
    return _call(_interfaces_of, {address.host for address in addresses})


def choose_interfaces(addresses: Sequence[Address], named: Sequence[str] = ()) -> tuple[str, ...]:
    """Whose packets a datapath takes: those named, or those that hold an address. Raises DatapathError."""
    chosen = tuple(named) or tuple(interfaces_of(list(addresses)))
    if not chosen:
        raise DatapathError("no interface but lo holds an own address: name some in datapath.interfaces")
    if "lo" in chosen:
        raise DatapathError("packets on lo cannot be re-addressed: remove lo from datapath.interfaces")
    return chosen


def hosts_of(interface: str) -> set[str]:
    """An interface's addresses, as text."""
    return {host for name, host in _call(_all_hosts) if name == interface}


def xdp_of(interface: str) -> XdpState:
    """The XDP program that is attached to an interface."""
    return _call(_xdp_of, interface)


def mtu_of(interface: str) -> int | None:
    """The most bytes of a packet on an interface; None if there is no such interface."""
    return _call(_mtu_of, interface)


def vlans() -> list[Vlan]:
    """All VLAN interfaces (IEEE 802.1Q) of this network namespace."""
    return _call(_vlans)


def _call(function: Callable[..., T], *arguments: Any) -> T:
    with ThreadPoolExecutor(1, "kdht-netlink") as threads:
        return threads.submit(function, *arguments).result()


def _target(queue: Queue) -> dict[str, Any]:
    """struct xt_NFQ_info_v3 {queuenum, queues_total, flags}, padded to 8 bytes, as an expression."""
    flags = NFQ_FLAG_BYPASS | (NFQ_FLAG_CPU_FANOUT if queue.by_cpu else 0)
    return {
        "attrs": [
            ("NFTA_EXPR_NAME", "target"),
            (
                "NFTA_EXPR_DATA",
                {
                    "attrs": [
                        ("NFTA_TARGET_NAME", "NFQUEUE"),
                        ("NFTA_TARGET_REV", TARGET_REVISION),
                        ("NFTA_TARGET_INFO", struct.pack("=HHHxx", queue.first, queue.total, flags)),
                    ]
                },
            ),
        ]
    }


def _add_rule(table: str, chain: str, target: dict[str, Any]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables(nfgen_family=INET) as nft:
            nft.rule("add", table=table, chain=chain, expressions=[[target]])
    except NetlinkError as error:
        raise _refused(table, chain, error.code) from error


def _refused(table: str, chain: str, code: int) -> DatapathError:
    why = {
        errno.EPERM: "this needs root (CAP_NET_ADMIN)",
        errno.ENOENT: "this kernel has no NFQUEUE target for nftables (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)",
        errno.ERANGE: "queue numbers end at 65535",
    }.get(code, errno.errorcode.get(code, str(code)))
    return DatapathError(f"cannot add the queue rule to table inet {table}, chain {chain}: {why}")


def _all_hosts() -> list[tuple[str, str]]:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        names = {link["index"]: link.get("ifname") for link in route.get_links()}
        return [
            (names[found["index"]], found.get("local") or found.get("address")) for found in route.get_addr()
        ]


def _interfaces_of(hosts: set[str]) -> list[str]:
    return sorted({name for name, host in _all_hosts() if host in hosts and name != "lo"})


XDP_MODES = {"xdp": "native", "xdpgeneric": "generic", "xdpoffload": "offloaded", "xdpmulti": "several"}


def _xdp_of(interface: str) -> XdpState:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        for link in route.get_links():
            xdp = link.get_attr("IFLA_XDP") if link.get("ifname") == interface else None
            if xdp is not None:
                mode = XDP_MODES.get(xdp.get_attr("IFLA_XDP_ATTACHED"), "")
                return XdpState(mode, xdp.get_attr("IFLA_XDP_PROG_ID") or 0)
    return XdpState("", 0)


def _mtu_of(interface: str) -> int | None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        links = (link for link in route.get_links() if link.get("ifname") == interface)
        return next((link.get("mtu") for link in links), None)


def _vlans() -> list[Vlan]:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        links = list(route.get_links())
    names = {link["index"]: link.get("ifname") for link in links}
    found = []
    for link in links:
        info = link.get_attr("IFLA_LINKINFO")
        if info is not None and info.get_attr("IFLA_INFO_KIND") == "vlan":
            number = info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_VLAN_ID")
            lower = names.get(link.get_attr("IFLA_LINK"), "")
            found.append(Vlan(link.get("ifname"), link["index"], number, lower))
    return found
