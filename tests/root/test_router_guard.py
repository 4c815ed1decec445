"""A two-homed host that was no router does not become one, although forwarding is on for our packets.

`two_homed` draws the hosts.
"""

import socket
import struct
from functools import partial
from pathlib import Path

import pytest
from chain import IDS, request
from nfq import Node, arrived, echo_through, udp
from two_homed import LEFT, NODE, RIGHT, two_homed

from kdht.datapath.host.ruleset import MARK
from kdht.datapath.host.sysctl import Sysctls
from kdht.datapath.nfqueue import datapath as nfqueue
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root

ALL_NODES, ROUTER_ADVERTISEMENT = "ff02::1", 134


@pytest.fixture
def hosts(lab: Lab) -> dict[str, Host]:
    return two_homed(lab)


@pytest.fixture
def node(hosts: dict[str, Host], tmp_path: Path) -> Node:
    return Node(hosts["node"], IDS[0], [*NODE[4], *NODE[6]], tmp_path, interfaces=("eth1", "eth2"))


@pytest.fixture
def owner(hosts: dict[str, Host], tmp_path: Path) -> Node:
    return Node(hosts["right"], IDS[1], [RIGHT[4], RIGHT[6]], tmp_path)


@pytest.mark.parametrize("family", [4, 6])
def test_only_our_packets_pass(hosts, node: Node, owner: Node, family: int) -> None:
    node.knows(0, owner, family)
    with (
        node.running(),
        udp(hosts["right"], RIGHT[family], PORT) as right,
        udp(hosts["left"], LEFT[family]) as left,
    ):
        for foreign in (b"plain", request()):
            left.sendto(foreign, (RIGHT[family], PORT))
        left.sendto(ours := request(), (NODE[family][0], PORT))
        data, source = right.recvfrom(2048)
        assert data[8:16] == ours[8:16]
        assert source[:2] == (node.addresses[0 if family == 4 else 2].host, PORT)
        assert arrived(right) == []
        counters = node.status()["nft"]
        assert (counters["unrouted"], counters["forwarded"]) == (2, 1)


def test_before_linux_6_17_too(hosts, node: Node, owner: Node, monkeypatch) -> None:
    """Where forwarding IPv6 is all interfaces' or none's, so is the guard."""
    monkeypatch.setattr(nfqueue, "Sysctls", partial(Sysctls, force6=False))
    test_only_our_packets_pass(hosts, node, owner, 6)


@pytest.mark.parametrize("family", [4, 6])
def test_a_router_stays_a_router(hosts, node: Node, family: int) -> None:
    host = hosts["node"]
    host.sysctl("net/ipv4/ip_forward", 1)
    host.sysctl("net/ipv6/conf/all/forwarding", 1)
    with (
        node.running(),
        udp(hosts["right"], RIGHT[family], 7777) as right,
        udp(hosts["left"], LEFT[family]) as left,
    ):
        left.sendto(b"across", (RIGHT[family], 7777))
        assert right.recvfrom(2048)[0] == b"across"


@pytest.mark.parametrize("family", [4, 6])
def test_without_the_guard_it_would_be_a_router(hosts, family: int, tmp_path: Path) -> None:
    """The sysctls alone do let others' packets across: this is what the table is for."""
    sysctls = Sysctls(["eth1", "eth2"], runtime_dir=tmp_path)
    with hosts["node"].enter():
        sysctls.apply()
    with udp(hosts["right"], RIGHT[family], 7777) as right, udp(hosts["left"], LEFT[family]) as left:
        left.sendto(b"across", (RIGHT[family], 7777))
        assert right.recvfrom(2048)[0] == b"across"


def test_who_makes_the_host_a_router_meanwhile_has_one(hosts, node: Node) -> None:
    with node.running(), udp(hosts["right"], RIGHT[4], 7777) as right, udp(hosts["left"], LEFT[4]) as left:
        hosts["node"].sysctl("net/ipv4/ip_forward", 1)
        listed = ["nft", "list", "set", "inet", "kdht", "guarded4"]
        wait_until(lambda: "eth1" not in hosts["node"].run(listed).stdout, "the guard to be lifted")
        left.sendto(b"across", (RIGHT[4], 7777))
        assert right.recvfrom(2048)[0] == b"across"


def test_a_forged_own_source_is_still_a_martian(hosts, node: Node, owner: Node) -> None:
    """accept_local is on for our packets; from outside, our own address as the source stays impossible."""
    node.knows(0, owner)
    left = hosts["left"]
    left.add_address("lo", "10.32.0.1/32")
    with node.running(), udp(hosts["node"], NODE[4][0], 7777) as inside, udp(left, LEFT[4]) as honest:
        with udp(left, "10.32.0.1") as forger:
            forger.sendto(b"I am you", (NODE[4][0], 7777))
            forger.sendto(request(), (NODE[4][0], PORT))
        honest.sendto(b"I am not", (NODE[4][0], 7777))
        assert inside.recvfrom(2048)[0] == b"I am not"
        assert node.status()["nft"]["martian"] == 2
        assert node.count("packets") == 0


def test_no_packet_can_bring_the_mark(hosts, node: Node) -> None:
    """What a sender's own mark is does not travel, so that only the worker's packets have it."""
    left = hosts["left"]
    with node.running(), udp(hosts["right"], RIGHT[4], 7777) as right, udp(left, LEFT[4]) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        sender.sendto(b"marked", (RIGHT[4], 7777))
        wait_until(lambda: node.status()["nft"]["unrouted"] == 1, "the guard's count")
        assert arrived(right) == []


# --- Router advertisements ----------------------------------------------------------------


def advertise(router: Host, interface: str, prefix: str) -> None:
    """One router advertisement (RFC 4861, 4.2) with one autonomous /64 (4.6.2), from the link-local address."""
    information = struct.pack(
        "!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, prefix)
    )
    message = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0) + information
    with router.enter(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        index = socket.if_nametoindex(interface)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.sendto(message, (ALL_NODES, 0, 0, index))


def has_advertised(host: Host) -> bool:
    return any(address.startswith("fd99:") for address in host.addresses("eth1"))


@pytest.mark.parametrize("force6", [True, False])
def test_ipv6_keeps_taking_router_advertisements(hosts, force6: bool, tmp_path: Path) -> None:
    """With force_forwarding interfaces stay hosts; without it accept_ra becomes 2."""
    node, left = hosts["node"], hosts["left"]
    node.sysctl("net/ipv6/conf/eth1/accept_ra", 1)
    sysctls = Sysctls(["eth1", "eth2"], runtime_dir=tmp_path, force6=force6)
    with node.enter():
        sysctls.apply()
        wait_until(lambda: _has_link_local(left), "a link-local address of the router")
        advertise(left, "eth1", "fd99::")
        wait_until(lambda: has_advertised(node), "an address of the advertised prefix")
        sysctls.restore()


def _has_link_local(host: Host) -> bool:
    shown = host.run(["ip", "-6", "address", "show", "scope", "link"]).stdout
    return "fe80::" in shown and "tentative" not in shown


def test_a_router_ignores_router_advertisements(hosts) -> None:
    """What the test above would see if forwarding were switched on without more."""
    node, left = hosts["node"], hosts["left"]
    node.sysctl("net/ipv6/conf/eth1/accept_ra", 1)
    node.sysctl("net/ipv6/conf/all/forwarding", 1)
    wait_until(lambda: _has_link_local(left), "a link-local address of the router")
    advertise(left, "eth1", "fd99::")
    advertise(left, "eth1", "fd99::")
    with udp(node, NODE[6][0], 7777) as inside, udp(left, LEFT[6]) as outside:
        echo_through(outside, inside, (NODE[6][0], 7777))
    assert not has_advertised(node)
