"""A fast path that loses packets is taken out of the way, and comes back when it works. Under load.

n1 --+-- br0 --+-- n2, n3
     |         +-- client: 200 single GETs a second through n1, and a client that repeats
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loss_load import Load, loaded

from kdht import Client
from kdht.datapath.ebpf import _ebpf
from kdht.lab.cluster import Cluster, LabNode, Place, Settings, places_in
from kdht.lab.netns import XDP_PASS, Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root

NAMES = [f"name {number}" for number in range(40)]
LOST_FOR_S = 2.0
BACK_IN_S = 5.0
STEADY_S = 1.0
CLIENT = {4: "10.53.48.99", 6: "fd53:48::99"}

RULES = {
    "nfqueue-4-policy": "table ip theirs { chain f { type filter hook forward priority 0; policy drop; }; }",
    "nfqueue-6-reverse path": "table inet theirs { chain p { type filter hook prerouting priority -290; "
    "fib saddr . mark . iif oif missing drop; }; }",
}
"""Rules as other programs load them: datapath, IP version, kind."""


SECOND = {4: ("10.54.0.1", "10.54.0.2", 24), 6: ("fd54::1", "fd54::2", 64)}
"""The second leg of n1 and the client: n1's address, the client's, and the prefix."""


@contextmanager
def cluster_of(lab: Lab, tmp_path: Path, datapath: str, version: int, *, legs: int = 1) -> Iterator[Cluster]:
    """`legs`: interfaces of n1 and the client."""
    places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
    lab.host("client", ipv4=f"{CLIENT[4]}/24", ipv6=f"{CLIENT[6]}/64")
    if legs == 2:
        at, here, prefix = SECOND[version]
        addresses = {"n1": [f"{at}/{prefix}"], "client": [f"{here}/{prefix}"]}
        lab.link(lab.hosts["n1"], lab.hosts["client"], addresses=addresses)
    interfaces = [f"eth{number}" for number in range(legs)]
    settings = {"node": {"cookies": False}}

    def of(place: Place) -> Settings:
        return {"datapath": {"interfaces": interfaces}} if place.name == "n1" else {}

    with Cluster(places, tmp_path, datapath=datapath, settings=settings, each=of) as cluster:
        yield cluster


def path_of(node: LabNode) -> dict:
    (path,) = [each for each in node.status()["datapaths"] if each["name"] != "socket"]
    return path


def re_addressed(node: LabNode, datapath: str) -> int:
    return node.stats()["packets"][datapath]["ENTERED"]


def lasts(load: Load, begun: float) -> float:
    """For how many seconds from `begun` single requests were lost. None is lost before, but those on their way."""
    lost = load.lost(time.monotonic() - 0.5)
    assert [at for at in lost if at < begun - 0.5] == []
    return max(lost, default=begun) - begun


@contextmanager
def busy(lab: Lab, cluster: Cluster, here: str = "") -> Iterator[Load]:
    """Single GETs, and a client that repeats them, which loses none. `here`: where the single ones come from."""
    node, client = cluster.nodes[0], lab.hosts["client"]
    here = here or CLIENT[4 if node.address.is_ipv4 else 6]
    with client.enter(), Client(str(node.address)) as user:
        for name in NAMES:
            user.put(name, name.encode())
        with loaded(client, here, (node.address.host, PORT), NAMES) as load:
            time.sleep(STEADY_S)
            yield load
            # In the end, and so after repetitions, none is lost.
            for name in NAMES:
                assert user.get(name) == name.encode()


def program_on(host: Host, interface: str) -> int:
    """The link of a program that lets all pass."""
    program = _ebpf.Object(str(XDP_PASS), "xdp_pass")
    with host.enter():
        return _ebpf.attach(program.program_fd, socket.if_nametoindex(interface), True)


def link_of(lab: Lab, name: str) -> int:
    """A program on the bridge's side of a host's interface."""
    return program_on(lab.bridge, name)


@contextmanager
def peers_with_program(lab: Lab) -> Iterator[dict[str, int]]:
    links = {name: link_of(lab, name) for name in ("n1", "n2", "n3", "client")}
    yield links
    for link in links.values():
        os.close(link)


@contextmanager
def lossy(node: LabNode, datapath: str, load: Load, reason: str) -> Iterator[None]:
    """What the block's beginning broke is broken until the block ends: seen, named, and put right."""
    begun = time.monotonic()
    wait_until(lambda: reason in path_of(node)["why"], f"the reason: {reason}", 5)
    assert path_of(node)["state"] == "degraded"
    time.sleep(STEADY_S)
    assert lasts(load, begun) < LOST_FOR_S
    yield
    mended = time.monotonic()
    wait_until(lambda: path_of(node)["state"] == "up", "the path to be whole")
    before = re_addressed(node, datapath)
    wait_until(lambda: re_addressed(node, datapath) > before, "the path to be used")
    assert time.monotonic() - mended < BACK_IN_S


@pytest.mark.parametrize("kind", RULES)
def test_a_foreign_rule_is_named_and_the_path_comes_back(lab: Lab, tmp_path: Path, kind: str) -> None:
    datapath, version, _ = kind.split("-")
    with cluster_of(lab, tmp_path, datapath, int(version)) as cluster, busy(lab, cluster) as load:
        node, host = cluster.nodes[0], lab.hosts["n1"]
        host.nft(RULES[kind])
        with lossy(node, datapath, load, "theirs"):
            host.run(["nft", "delete", "table", *RULES[kind].split()[1:3]])


def test_a_foreign_route_is_passed_by(lab: Lab, tmp_path: Path) -> None:
    """As a VPN's script makes them. No rule of nftables drops anything."""
    with cluster_of(lab, tmp_path, "nfqueue", 4) as cluster, busy(lab, cluster) as load:
        host = lab.hosts["n1"]
        host.run(["ip", "route", "add", "blackhole", "default", "table", "100"])
        host.run(["ip", "rule", "add", "iif", "eth0", "lookup", "100"])
        with lossy(cluster.nodes[0], "nfqueue", load, "look at ip rule"):
            host.run(["ip", "rule", "delete", "iif", "eth0", "lookup", "100"])


def test_a_hung_worker_is_passed_by(lab: Lab, tmp_path: Path) -> None:
    with cluster_of(lab, tmp_path, "nfqueue", 4) as cluster, busy(lab, cluster) as load:
        node = cluster.nodes[0]
        worker = path_of(node)["worker"]
        os.kill(worker, signal.SIGSTOP)
        with lossy(node, "nfqueue", load, "packets get lost"):
            os.kill(worker, signal.SIGCONT)


def test_packets_lost_in_the_driver_are_noticed(lab: Lab, tmp_path: Path) -> None:
    """A veth loses what an XDP program sends as soon as its peer has no program."""
    with (
        cluster_of(lab, tmp_path, "ebpf", 4) as cluster,
        peers_with_program(lab) as links,
        busy(lab, cluster) as load,
    ):
        os.close(links.pop("n1"))
        with lossy(cluster.nodes[0], "ebpf", load, "what the program sends at eth0"):
            links["n1"] = link_of(lab, "n1")


CLIENTS_RULE = "table {family} theirs {{ chain f {{ type filter hook {hook} priority 5; {match} drop; }}; }}"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("match", ["client", "size"])
def test_packets_that_only_some_clients_lose_are_missed(
    lab: Lab, tmp_path: Path, version: int, match: str
) -> None:
    """Checks pass this rule: it drops what goes to one client, or replies with short values."""
    with cluster_of(lab, tmp_path, "nfqueue", version) as cluster, busy(lab, cluster) as load:
        node, host = cluster.nodes[0], lab.hosts["n1"]
        ip = {4: "ip", 6: "ip6"}[version]
        matches = {"client": f"{ip} daddr {CLIENT[version]}", "size": "udp length 121-1000"}
        rule = CLIENTS_RULE.format(family=ip, hook="forward", match=matches[match])
        host.nft(rule)
        with lossy(node, "nfqueue", load, "theirs"):
            assert path_of(node)["checks"]["missing"] > 0
            assert path_of(node)["checks"]["lost"] == 0
            host.run(["nft", "delete", "table", ip, "theirs"])


@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_only_one_of_two_interfaces_loses_are_missed(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    """n1 eth1 --- eth1 client: checks take eth0. A veth loses what a program sends to a peer without a program."""
    node_at, here, _ = SECOND[version]
    with cluster_of(lab, tmp_path, "ebpf", version, legs=2) as cluster, peers_with_program(lab):
        node, client = cluster.nodes[0], lab.hosts["client"]
        link = program_on(client, "eth1")
        whole = 32 if version == 4 else 128
        client.run(["ip", "route", "add", f"{node.address.host}/{whole}", "via", node_at, "dev", "eth1"])
        with busy(lab, cluster, here) as load:
            # The program came before its peers', so some checks are lost at the beginning.
            before = path_of(node)["checks"]["lost"]
            os.close(link)
            with lossy(node, "ebpf", load, "what the program sends at"):
                assert path_of(node)["checks"]["missing"] > 0
                assert path_of(node)["checks"]["lost"] == before
                link = program_on(client, "eth1")
        os.close(link)


@pytest.mark.parametrize("datapath", ["nfqueue", "ebpf"])
def test_quick_repairs_lose_few_packets(lab: Lab, tmp_path: Path, datapath: str) -> None:
    with (
        cluster_of(lab, tmp_path, datapath, 4) as cluster,
        peers_with_program(lab),
        busy(lab, cluster) as load,
    ):
        host = lab.hosts["n1"]
        for change in (["nft", "flush", "ruleset"], ["sysctl", "-w", "net.ipv4.conf.eth0.forwarding=0"]):
            begun = time.monotonic()
            host.run(change)
            time.sleep(STEADY_S)
            assert lasts(load, begun) < LOST_FOR_S / 2, change
            load.forget()
        assert path_of(cluster.nodes[0])["state"] == "up"
        assert path_of(cluster.nodes[0])["checks"]["good"] > 0
