"""What others do to a host under load, on all three datapaths: nineteen cases beside those of test_fast_path_check.py.

n1 --+-- br0 --+-- n2, n3
     |         +-- client: 200 single GETs a second through n1, and a client that repeats
"""

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
CLIENT = "10.53.48.99"
LOST_FOR_S = 2.0
BACK_IN_S = 5.0
BROKEN_S = 3.0


class Case(NamedTuple):
    """Shell commands on the host of n1: what somebody does, and how it is undone."""

    breaks: str
    mends: str = "true"


def table(hook: str, priority: str, rule: str) -> Case:
    chain = f"chain c {{ type filter hook {hook} priority {priority}; {rule}; }};"
    return Case(f"nft 'table ip theirs {{ {chain} }}'", "nft delete table ip theirs")


CASES = {
    "strict reverse path filter": Case(
        "sysctl -qw net.ipv4.conf.all.rp_filter=1", "sysctl -qw net.ipv4.conf.all.rp_filter=0"
    ),
    "NixOS's reverse path rule": table(
        "prerouting", "mangle + 10", "fib saddr . mark . iif oif missing drop"
    ),
    "a VPN's kill switch": table("postrouting", "filter", "meta mark != 0xca6c ip ttl 63 drop"),
    "a VPN's routing rule": Case(
        "ip route add unreachable default table 51820; ip rule add iif eth0 fwmark 0x30d4 lookup 51820",
        "ip rule delete iif eth0 fwmark 0x30d4 lookup 51820",
    ),
    "docker's forward policy": table("forward", "filter", "policy drop"),
    "a rule against marked packets": table("prerouting", "0", "meta mark 0x30d4 drop"),
    "a router that becomes none": Case("sysctl -qw net.ipv4.ip_forward=1; sysctl -qw net.ipv4.ip_forward=0"),
    "all rules flushed again and again": Case("for i in 1 2 3; do nft flush ruleset; sleep 0.3; done"),
    "neighbours forgotten": Case("for i in 1 2 3 4 5; do ip neigh flush dev eth0; sleep 0.2; done"),
    "a mark of a VPN's for all packets": table("prerouting", "mangle", "meta mark set 0"),
    "ufw enabled": Case(
        "nft 'table ip theirs { "
        "chain i { type filter hook input priority 0; policy drop; ct state established,related accept; udp dport 5348 accept; "
        "udp sport 5348 accept; }; "
        "chain f { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }'",
        "nft delete table ip theirs",
    ),
    "sysctl --system": Case(
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.default.rp_filter=2 "
        "net.ipv4.conf.eth0.accept_local=0 net.ipv4.conf.all.send_redirects=1 net.ipv6.conf.all.forwarding=0"
    ),
    "IPv6 switched off": Case(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "sysctl -qw net.ipv6.conf.all.disable_ipv6=0"
    ),
    "an interface on top": Case(
        "ip link add top0 link eth0 type macvlan; ip address add 10.53.48.77/24 dev top0; ip link set top0 up",
        "ip link delete top0",
    ),
    "another name of the interface": Case("ip link set eth0 name wan0", "ip link set wan0 name eth0"),
    "addresses flushed and set": Case("ip address flush dev eth0; ip address add 10.53.48.1/24 dev eth0"),
    "an address with an end": Case(
        "ip address change 10.53.48.1/24 dev eth0 valid_lft 1 preferred_lft 1; sleep 1.2; ip address replace 10.53.48.1/24 dev eth0"
    ),
    "an interface in a bridge": Case(
        "ip link add br9 type bridge; ip link set br9 address $(ip -br link show eth0 | "
        "awk '{print $3}'); ip address delete 10.53.48.1/24 dev eth0; ip link set eth0 master br9; "
        "ip address add 10.53.48.1/24 dev br9; ip link set br9 up",
        "ip address delete 10.53.48.1/24 dev br9; ip link set eth0 nomaster; ip link delete br9; ip address add 10.53.48.1/24 dev eth0",
    ),
    "an interface for short packets": Case("ip link set eth0 mtu 1279", "ip link set eth0 mtu 1500"),
}


@pytest.fixture(scope="module", params=["socket", "nfqueue", "ebpf"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, Cluster, str]]:
    with Lab("t-host-cases") as lab:
        places = places_in(lab, 3)
        lab.host("client", ipv4=f"{CLIENT}/24")
        lab.let_xdp_send()
        home = tmp_path_factory.mktemp("cases")
        with Cluster(places, home, datapath=request.param, settings={"node": {"cookies": False}}) as cluster:
            with lab.hosts["client"].enter(), Client(str(cluster.nodes[0].address)) as user:
                for name in NAMES:
                    user.put(name, name.encode())
            yield lab, cluster, request.param


def shell(host: Host, command: str) -> None:
    host.run(["sh", "-ec", command])


def is_up(node: LabNode) -> bool:
    return all(path["state"] == "up" for path in node.status()["datapaths"])


def lost_after(load: Load, begun: float) -> float:
    """For how many seconds from then on single requests were lost."""
    return max((at for at in load.lost(time.monotonic() - 1.0) if at > begun), default=begun) - begun


def is_taken(node: LabNode, datapath: str, before: int) -> bool:
    return datapath == "socket" or node.stats()["packets"][datapath]["ENTERED"] > before


@pytest.mark.parametrize("case", CASES)
def test_no_request_is_lost_for_long(
    stage: tuple[Lab, Cluster, str], case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, cluster, datapath = stage
    node, client = cluster.nodes[0], lab.hosts["client"]
    wait_until(lambda: is_up(node), "the path to be whole")
    with ExitStack() as stack:
        stack.enter_context(client.enter())
        user = stack.enter_context(Client(str(node.address), learn=False))
        load = stack.enter_context(loaded(client, CLIENT, (node.address.host, PORT), NAMES))
        time.sleep(1)
        begun = time.monotonic()
        shell(lab.hosts["n1"], CASES[case].breaks)
        for name in NAMES:
            assert user.get(name) == name.encode()
        time.sleep(max(begun + BROKEN_S - time.monotonic(), 0))
        lasted = lost_after(load, begun)
        assert lasted < LOST_FOR_S
        shell(lab.hosts["n1"], CASES[case].mends)
        mended = time.monotonic()
        wait_until(lambda: is_up(node), "the path to be whole", 2 * BACK_IN_S)
        before = node.stats()["packets"][datapath]["ENTERED"]
        wait_until(lambda: is_taken(node, datapath, before), "the path to be used")
        back = time.monotonic() - mended
        assert back < BACK_IN_S
        with capsys.disabled():
            print(
                f"\n{datapath}, {case}: single requests lost for {lasted:.1f} s, back {back:.1f} s after the repair"
            )
        for name in NAMES:
            assert user.get(name) == name.encode()
