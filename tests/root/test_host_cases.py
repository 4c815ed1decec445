"""What others do to a host under load, on all three datapaths: twenty-five cases beside those of test_fast_path_check.py.

n1 --+-- br0 --+-- n2, n3
     |         +-- client: 200 single GETs a second through n1, and a client that repeats

All cases over IPv4 but those of `SELDOM`, and over IPv6 those of `OFTEN`; those of `OF_NFQUEUE` on nfqueue. With
KDHT_HOST_CASES=all all of them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from loss_load import Load, loaded

from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NAMES = [f"name {number}" for number in range(40)]
CLIENT = {4: "10.53.48.99", 6: "fd53:48::99"}
LENGTH = {4: 24, 6: 64}
LOST_FOR_S = 2.0
BACK_IN_S = 5.0
BROKEN_S = 3.0


class Case(NamedTuple):
    """Shell commands on the host of n1: what somebody does, and how it is undone."""

    breaks: str
    mends: str = "true"


def table(version: int, hook: str, priority: str, rule: str) -> Case:
    family = FAMILY[version]
    chain = f"chain c {{ type filter hook {hook} priority {priority}; {rule}; }};"
    return Case(f"nft 'table {family} theirs {{ {chain} }}'", f"nft delete table {family} theirs")


FAMILY = {4: "ip", 6: "ip6"}
"""In nft's words."""
SETTINGS = {
    4: "net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.default.rp_filter=2 "
    "net.ipv4.conf.eth0.accept_local=0 net.ipv4.conf.all.send_redirects=1 net.ipv6.conf.all.forwarding=0",
    6: "net.ipv6.conf.all.forwarding=0 net.ipv6.conf.default.forwarding=0 net.ipv6.conf.eth0.forwarding=0 "
    "net.ipv6.conf.all.accept_ra=1 net.ipv6.conf.all.accept_redirects=0 net.ipv4.ip_forward=0",
}
"""As of a file in /etc/sysctl.d."""


def cases(version: int) -> dict[str, Case]:
    """What is done to the address and the packets of this IP version."""
    ip, address, client, network = {
        4: ("ip -4", "10.53.48.1/24 dev eth0", "10.53.48.77/24", "10.53.48.0/24"),
        6: ("ip -6", "fd53:48::1/64 dev eth0 nodad", "fd53:48::77/64", "fd53:48::/64"),
    }[version]
    family, ttl = FAMILY[version], {4: "ip ttl", 6: "ip6 hoplimit"}[version]
    on_bridge = address.replace("eth0", "br9")
    neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; " if version == 6 else ""
    forward = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[version]
    return {
        "a reverse path rule": table(
            version, "prerouting", "mangle + 10", "fib saddr . mark . iif oif missing drop"
        ),
        "a VPN's kill switch": table(version, "postrouting", "filter", f"meta mark != 0xca6c {ttl} 63 drop"),
        "a VPN's routing rule": Case(
            f"{ip} route add unreachable default table 51820; {ip} rule add iif eth0 fwmark 0x30d4 lookup 51820",
            f"{ip} rule delete iif eth0 fwmark 0x30d4 lookup 51820; {ip} route flush table 51820",
        ),
        "docker's forward policy": table(version, "forward", "filter", "policy drop"),
        "a rule against marked packets": table(version, "prerouting", "0", "meta mark 0x30d4 drop"),
        "a router that becomes none": Case(f"sysctl -qw {forward}=1; sysctl -qw {forward}=0"),
        "all rules flushed again and again": Case("for i in 1 2 3; do nft flush ruleset; sleep 0.3; done"),
        "neighbours forgotten": Case(f"for i in 1 2 3 4 5; do {ip} neigh flush dev eth0; sleep 0.2; done"),
        "a mark of a VPN's for all packets": table(version, "prerouting", "mangle", "meta mark set 0"),
        "ufw enabled": Case(
            f"nft 'table {family} theirs {{ "
            "chain i { type filter hook input priority 0; policy drop; ct state established,related accept; "
            f"{neighbours}udp dport 5348 accept; udp sport 5348 accept; }}; "
            "chain f { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }'",
            f"nft delete table {family} theirs",
        ),
        "a translation of source ports": Case(
            f"nft 'table {family} theirs {{ chain c {{ type nat hook postrouting priority srcnat; "
            "oif eth0 masquerade fully-random; }; }'",
            f"nft delete table {family} theirs",
        ),
        "a drop behind all other rules": Case(
            f"nft 'table netdev theirs {{ chain c {{ type filter hook egress device eth0 priority 0; {ttl} 63 drop; }}; }}'",
            "nft delete table netdev theirs",
        ),
        "a policy of IPsec": Case(
            f"ip xfrm policy add dir fwd src {network} dst {network} action block", "ip xfrm policy flush"
        ),
        "untracked packets dropped": Case(
            f"nft 'table {family} theirs {{ chain p {{ type filter hook prerouting priority raw; udp dport 5348 notrack; }}; "
            "chain f { type filter hook forward priority filter; ct state invalid,untracked drop; }; }'",
            f"nft delete table {family} theirs",
        ),
        "the rules of our table flushed": Case(
            "nft list tables | grep kdht | sed 's/^/flush /' | nft -f -",
        ),
        "a quota": table(version, "forward", "filter", "quota over 1000 bytes drop"),
        "sysctl --system": Case(f"sysctl -qw {SETTINGS[version]}"),
        "an interface on top": Case(
            f"ip link add top0 link eth0 type macvlan; {ip} address add {client} dev top0; ip link set top0 up",
            "ip link delete top0",
        ),
        "another name of the interface": Case("ip link set eth0 name wan0", "ip link set wan0 name eth0"),
        "addresses flushed and set": Case(f"{ip} address flush dev eth0; {ip} address add {address}"),
        "an address with an end": Case(
            f"{ip} address change {address} valid_lft 1 preferred_lft 1; sleep 1.2; {ip} address replace {address}"
        ),
        "an interface in a bridge": Case(
            "ip link add br9 type bridge; ip link set br9 address $(ip -br link show eth0 | awk '{print $3}'); "
            f"{ip} address delete {address.removesuffix(' nodad')}; ip link set eth0 master br9; "
            f"{ip} address add {on_bridge}; ip link set br9 up",
            f"{ip} address delete {on_bridge.removesuffix(' nodad')}; ip link set eth0 nomaster; ip link delete br9; "
            f"{ip} address add {address}",
        ),
        **(ONLY_IPV4 if version == 4 else ONLY_IPV6),
    }


ONLY_IPV4 = {
    "strict reverse path filter": Case(
        "sysctl -qw net.ipv4.conf.all.rp_filter=1", "sysctl -qw net.ipv4.conf.all.rp_filter=0"
    ),
    "IPv6 switched off": Case(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "sysctl -qw net.ipv6.conf.all.disable_ipv6=0"
    ),
    "an interface for short packets": Case("ip link set eth0 mtu 1279", "ip link set eth0 mtu 1500"),
}
ONLY_IPV6 = {
    "forwarding of the interface switched off": Case(
        "for each in forwarding force_forwarding; do sysctl -eqw net.ipv6.conf.eth0.$each=0; done"
    ),
    "IPv6 switched off and on": Case(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; sleep 0.5; sysctl -qw net.ipv6.conf.all.disable_ipv6=0; "
        "ip address add fd53:48::1/64 dev eth0 nodad"
    ),
    # Below 1280 the kernel takes IPv6 off the interface.
    "an interface for short packets for a moment": Case(
        "ip link set eth0 mtu 1279; sleep 0.5; ip link set eth0 mtu 1500; ip address add fd53:48::1/64 dev eth0 nodad"
    ),
}
OFTEN = (
    "a reverse path rule",
    "a router that becomes none",
    "sysctl --system",
    "IPv6 switched off and on",
    "an interface in a bridge",
)
"""The cases over IPv6 that are played each time: those where the kernel does otherwise than for IPv4."""
OF_NFQUEUE = ("a translation of source ports", "a drop behind all other rules")
"""Cases that concern what the kernel routes: nfqueue's alone, so the other datapaths' are played with all."""
SELDOM = (
    "a policy of IPsec",
    "untracked packets dropped",
    "the rules of our table flushed",
    "a quota",
)
"""Like others that are played each time."""
ALL = os.environ.get("KDHT_HOST_CASES") == "all"
PLAYED = [
    pytest.param((datapath, version), case, id=f"{datapath}-ipv{version}-{case}")
    for version in (4, 6)
    for datapath in ("socket", "nfqueue", "ebpf")
    for case in cases(version)
    if ALL
    or case in OFTEN
    or (version == 4 and case not in (*OF_NFQUEUE, *SELDOM))
    or (datapath == "nfqueue" and case in OF_NFQUEUE)
]


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, Cluster, str, int]]:
    datapath, version = request.param
    with Lab("t-host-cases") as lab:
        places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
        client = f"{CLIENT[version]}/{LENGTH[version]}"
        lab.host("client", ipv4=client if version == 4 else None, ipv6=client if version == 6 else None)
        lab.let_xdp_send()
        home = tmp_path_factory.mktemp("cases")
        with Cluster(places, home, datapath=datapath, settings={"node": {"cookies": False}}) as cluster:
            with lab.hosts["client"].enter(), Client(str(cluster.nodes[0].address)) as user:
                for name in NAMES:
                    user.put(name, name.encode())
            yield lab, cluster, datapath, version


def shell(host: Host, command: str) -> None:
    host.run(["sh", "-ec", command])


def is_up(node: LabNode) -> bool:
    return all(path["state"] == "up" for path in node.status()["datapaths"])


def lost_after(load: Load, begun: float) -> float:
    """For how many seconds from then on single requests were lost."""
    return max((at for at in load.lost(time.monotonic() - 1.0) if at > begun), default=begun) - begun


def is_taken(node: LabNode, datapath: str, before: int) -> bool:
    return datapath == "socket" or node.stats()["packets"][datapath]["ENTERED"] > before


@pytest.mark.parametrize(("stage", "case"), PLAYED, indirect=["stage"])
def test_no_request_is_lost_for_long(
    stage: tuple[Lab, Cluster, str, int], case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, cluster, datapath, version = stage
    node, client, commands = cluster.nodes[0], lab.hosts["client"], cases(version)[case]
    wait_until(lambda: is_up(node), "the path to be whole")
    with ExitStack() as stack:
        stack.enter_context(client.enter())
        user = stack.enter_context(Client(str(node.address), learn=False))
        load = stack.enter_context(loaded(client, CLIENT[version], (node.address.host, PORT), NAMES))
        time.sleep(1)
        begun = time.monotonic()
        shell(lab.hosts["n1"], commands.breaks)
        for name in NAMES:
            assert user.get(name) == name.encode()
        time.sleep(max(begun + BROKEN_S - time.monotonic(), 0))
        lasted = lost_after(load, begun)
        assert lasted < LOST_FOR_S
        shell(lab.hosts["n1"], commands.mends)
        mended = time.monotonic()
        wait_until(lambda: is_up(node), "the path to be whole", 2 * BACK_IN_S)
        before = node.stats()["packets"][datapath]["ENTERED"]
        wait_until(lambda: is_taken(node, datapath, before), "the path to be used")
        back = time.monotonic() - mended
        assert back < BACK_IN_S
        with capsys.disabled():
            print(
                f"\n{datapath}, IPv{version}, {case}: single requests lost for {lasted:.1f} s, back {back:.1f} s after the repair"
            )
        for name in NAMES:
            assert user.get(name) == name.encode()
