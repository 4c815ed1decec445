"""The host's settings under a running node: what somebody changes is put right, and the host stays closed.

`two_homed` draws the hosts.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chain import IDS, request
from nfq import Node, arrived, udp
from two_homed import LEFT, NODE, RIGHT, two_homed

from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.publish import Publisher
from kdht.errors import DatapathError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root

AT_ONCE_S = 1.0


@pytest.fixture
def hosts(lab: Lab) -> dict[str, Host]:
    return two_homed(lab)


@pytest.fixture
def node(hosts: dict[str, Host], tmp_path: Path) -> Node:
    return Node(hosts["node"], IDS[0], [*NODE[4], *NODE[6]], tmp_path, interfaces=("eth1", "eth2"))


@contextmanager
def running(node: Node, kind: str) -> Iterator[Node]:
    """The node with this datapath."""
    if kind == "nfqueue":
        with node.running():
            yield node
        return
    options = EbpfOptions(
        node_id=IDS[0],
        addresses=tuple(node.addresses),
        interfaces=("eth1", "eth2"),
        runtime_dir=node.options.runtime_dir,
    )
    node.datapath = EbpfDatapath(Publisher(node.core), options)  # type: ignore[assignment]
    with node.host.enter():
        node.datapath.start()
        try:
            yield node
        finally:
            node.datapath.stop()


def soon(what: str, is_so) -> float:
    """Wait for it; the seconds that it took, which are few."""
    begun = time.monotonic()
    wait_until(is_so, what)
    took = time.monotonic() - begun
    assert took < AT_ONCE_S, f"{what} took {took:.2f} s"
    return took


KINDS = pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
TABLE = {"nfqueue": "kdht", "ebpf": "kdht_guard"}


def has_table(host: Host, kind: str) -> bool:
    return host.run(["nft", "list", "set", "inet", TABLE[kind], "guarded4"], check=False).returncode == 0


@KINDS
def test_a_flushed_ruleset_leaves_the_host_closed(hosts, node: Node, kind: str) -> None:
    with (
        running(node, kind),
        udp(hosts["right"], RIGHT[4], 7777) as right4,
        udp(hosts["left"], LEFT[4]) as left4,
        udp(hosts["right"], RIGHT[6], 7777) as right6,
        udp(hosts["left"], LEFT[6]) as left6,
    ):
        hosts["node"].run(["nft", "flush", "ruleset"])
        soon("the guards", lambda: has_table(hosts["node"], kind))
        for left, family in ((left4, 4), (left6, 6)):
            left.sendto(b"across", (RIGHT[family], 7777))
        time.sleep(0.2)
        assert arrived(right4) == arrived(right6) == []
        assert node.status()["state"] == "up"


@pytest.mark.parametrize(
    ("kind", "name"), [("nfqueue", "forwarding"), ("ebpf", "forwarding"), ("nfqueue", "accept_local")]
)
def test_an_own_sysctl_is_set_again(hosts, node: Node, kind: str, name: str) -> None:
    """The kernel announces a change of forwarding, and none of accept_local: that is seen at the next look."""
    sysctl = f"net/ipv4/conf/eth1/{name}"
    with running(node, kind):
        hosts["node"].sysctl(sysctl, 0)
        is_set = lambda: hosts["node"].sysctl(sysctl) == "1"  # noqa: E731
        soon(name, is_set) if name == "forwarding" else wait_until(is_set, name)
        assert node.status()["state"] == "up"


@KINDS
def test_a_router_that_is_none_any_more_stays_closed(hosts, node: Node, kind: str) -> None:
    host = hosts["node"]
    host.sysctl("net/ipv4/ip_forward", 1)
    with (
        running(node, kind),
        udp(hosts["right"], RIGHT[4], 7777) as right,
        udp(hosts["left"], LEFT[4]) as left,
    ):
        left.sendto(b"across", (RIGHT[4], 7777))
        assert right.recvfrom(2048)[0] == b"across"
        host.sysctl("net/ipv4/ip_forward", 0)
        soon("our forwarding", lambda: host.sysctl("net/ipv4/conf/eth1/forwarding") == "1")
        left.sendto(b"across", (RIGHT[4], 7777))
        time.sleep(0.2)
        assert arrived(right) == []
    assert host.sysctl("net/ipv4/conf/eth1/forwarding") == "0"


def test_repeated_foreign_changes_stay_and_forwarding_goes_off(hosts, node: Node) -> None:
    host = hosts["node"]
    with running(node, "nfqueue"):
        for _ in range(5):
            host.run(["nft", "delete", "table", "inet", "kdht"])
            soon("the table", lambda: has_table(host, "nfqueue"))
            wait_until(lambda: node.status()["state"] == "up", "the whole table")
        host.run(["nft", "delete", "table", "inet", "kdht"])
        soon("no forwarding", lambda: host.sysctl("net/ipv4/conf/eth1/forwarding") == "0")
        status = node.status()
        assert status["state"] == "degraded"
        assert "table inet kdht again and again" in status["why"]


@KINDS
def test_an_interface_made_again_is_used_again(lab: Lab, hosts, node: Node, kind: str) -> None:
    host = hosts["node"]
    with running(node, kind):
        host.run(["ip", "link", "delete", "eth1"])
        wait_until(lambda: node.status()["state"] == "degraded", "the loss to be seen")
        assert "eth1" in node.status()["why"]
        lab.link(hosts["left"], host, "eth1", addresses={
            "left": ["10.31.0.2/24", "fd31::2/64"], "node": ["10.31.0.1/24", "fd31::1/64"]})  # fmt: skip
        begun = time.monotonic()
        wait_until(lambda: node.status()["state"] == "up", "the interface to be used")
        assert time.monotonic() - begun < 5
        assert host.sysctl("net/ipv4/conf/eth1/forwarding") == "1"


@KINDS
def test_an_interface_for_short_packets_is_named(hosts, node: Node, kind: str) -> None:
    with running(node, kind):
        hosts["node"].run(["ip", "link", "set", "eth1", "mtu", "1279"])
        wait_until(lambda: node.status()["state"] == "degraded", "the state")
        assert "eth1 carries 1279 bytes" in node.status()["why"]
        hosts["node"].run(["ip", "link", "set", "eth1", "mtu", "1280"])
        wait_until(lambda: node.status()["state"] == "up", "the state")


def test_a_program_that_was_taken_off_is_attached_again(hosts, node: Node) -> None:
    with running(node, "ebpf"):
        pinned = node.datapath.options.pins / "link-eth1"
        hosts["node"].run(["bpftool", "link", "detach", "pinned", str(pinned)])
        wait_until(lambda: "xdp" in hosts["node"].run(["ip", "link", "show", "eth1"]).stdout, "the program")
        assert node.status()["state"] == "up"


def test_two_nodes_do_not_share_a_table(hosts, node: Node, tmp_path: Path) -> None:
    other = Node(hosts["node"], IDS[1], ["10.32.0.1"], tmp_path, interfaces=("eth2",), first_queue=7)
    with running(node, "nfqueue"):
        with (
            hosts["node"].enter(),
            pytest.raises(DatapathError, match=r"table inet kdht belongs to another node"),
        ):
            other.datapath.start()
        assert node.status()["state"] == "up"
    with hosts["node"].enter():
        other.datapath.start()
        other.datapath.stop()


def test_our_packets_pass_after_every_repair(hosts, node: Node, tmp_path: Path) -> None:
    owner = Node(hosts["right"], IDS[1], [RIGHT[4]], tmp_path)
    node.knows(0, owner, 4)
    with (
        running(node, "nfqueue"),
        udp(hosts["right"], RIGHT[4], PORT) as right,
        udp(hosts["left"], LEFT[4]) as left,
    ):
        for change in (["nft", "flush", "ruleset"], ["sysctl", "-w", "net.ipv4.conf.eth1.forwarding=0"]):
            hosts["node"].run(change)
            wait_until(lambda: node.status()["state"] == "up", "the repair")
            wait_until(lambda: has_table(hosts["node"], "nfqueue"), "the table")
            left.sendto(ours := request(), (NODE[4][0], PORT))
            assert right.recvfrom(2048)[0][8:16] == ours[8:16]
            assert isinstance(right, socket.socket)
