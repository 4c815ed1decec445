"""Real daemons whose packets an XDP program re-addresses: load, switches, deaths, and what is left.

client   n1   n2   ...   n8
  |      |    |          |        each on its own veth, whose bridge end lets XDP programs send
--+------+----+-- br0 ---+--
"""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cluster_load import get_all, keys, put_all, relayed, value_of
from nfq import udp
from pins import pins_removed

from kdht import Client
from kdht._routing import Core
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.ebpf.xdp_links import BPFFS
from kdht.datapath.host import netlink
from kdht.datapath.publish import Publisher
from kdht.errors import DatapathError, KdhtError, NoDaemon
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import XDP_PASS, Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root

GETS = int(os.environ.get("KDHT_GETS", "20000"))
KEYS = 1000
READDRESSED = ("ENTERED", "NEXT_HOP", "RELAYED")
UP_TO_THE_SOCKET = ("NO_NEIGHBOUR", "NO_ROUTE", "FAMILY")
"""Why the program leaves a packet to the socket that could go on."""
OTHER_ID = bytes(range(20))

Built = tuple[Cluster, Host]


@contextmanager
def built(
    prefix: str, directory: Path, nodes: int, *, ipv6: bool = False, kind: str = "ebpf", **datapath: object
) -> Iterator[Built]:
    """A cluster with KEYS values in it, and the client's host."""
    with Lab(prefix) as lab:
        places = places_in(lab, nodes, ipv4=not ipv6, ipv6=ipv6)
        client = lab.host("client", **({"ipv6": "fd53:48::fa/64"} if ipv6 else {"ipv4": "10.53.48.250/24"}))
        lab.let_xdp_send()
        cluster = Cluster(places, directory, datapath=kind, settings={"datapath": datapath})
        with pins_removed(cluster), cluster:
            with client.enter():
                asyncio.run(put_all(cluster, keys(KEYS)))
            yield cluster, client


def ebpf_status(node: LabNode) -> dict[str, object]:
    return next(path for path in node.status()["datapaths"] if path["name"] == "ebpf")


def pins_of(cluster: Cluster) -> list[Path]:
    return [BPFFS / f"kdht-{node.status()['node_id']}" for node in cluster.nodes]


def attached(host: Host) -> str:
    with host.enter():
        return netlink.xdp_of("eth0").mode


# --- The data set -----------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_every_get_is_right_and_goes_on_in_the_kernel(tmp_path: Path, ipv6: bool) -> None:
    with built("ke-gets", tmp_path, 8, ipv6=ipv6) as (cluster, client):
        with client.enter():
            outcome = asyncio.run(get_all(cluster, keys(KEYS), GETS))
        assert (outcome.right, outcome.wrong, outcome.lost) == (GETS, [], [])
        assert {ebpf_status(node)["state"] for node in cluster.nodes} == {"up"}
        packets = [node.stats()["packets"] for node in cluster.nodes]
        in_kernel, by_sockets, left = (
            sum(each[lane][reason] for each in packets for reason in reasons)
            for lane, reasons in (("ebpf", READDRESSED), ("socket", READDRESSED), ("ebpf", UP_TO_THE_SOCKET))
        )
        assert in_kernel > GETS
        assert by_sockets <= left < in_kernel / 100
        before = relayed(cluster)
        with client.enter():
            outcome = asyncio.run(get_all(cluster, keys(KEYS), GETS // 10, direct=True))
        assert (outcome.right, outcome.wrong, outcome.lost) == (GETS // 10, [], [])
        assert relayed(cluster) - before < GETS / 10 / 2, "but for hedges"


# --- Switching ---------------------------------------------------------------------------


def test_a_switch_under_load_loses_nothing(tmp_path: Path) -> None:
    with built("ke-switch", tmp_path, 4, kind="socket") as (cluster, client):

        def switch() -> None:
            for kind in ("nfqueue", "ebpf", "socket", "ebpf", "nfqueue", "socket"):
                for node in cluster.nodes:
                    assert node.call("switch", kind=kind)["kind"] == kind

        async def load() -> None:
            beside = asyncio.create_task(asyncio.to_thread(switch))
            rounds = 0
            while not beside.done() or not rounds:
                outcome = await get_all(cluster, keys(KEYS), 2000)
                assert (outcome.wrong, outcome.lost) == ([], [])
                rounds += 1
            await beside

        with client.enter():
            asyncio.run(load())
        assert [attached(node.host) for node in cluster.nodes] == [""] * 4
        for node in cluster.nodes:
            assert "kdht" not in node.host.run(["nft", "list", "tables"]).stdout
        assert not any(pins.exists() for pins in pins_of(cluster))


def test_a_datapath_that_cannot_start_leaves_the_old_one(tmp_path: Path) -> None:
    with built("ke-refuse", tmp_path, 2, kind="nfqueue") as (cluster, _):
        node = cluster.nodes[0]
        with foreign_program(node.host):
            with pytest.raises(KdhtError, match=r"eth0 has another XDP program already, number \d+"):
                node.call("switch", kind="ebpf")
            assert node.call("datapath")["kind"] == "nfqueue"
            assert attached(node.host) == "native"
        assert node.call("switch", kind="ebpf")["kind"] == "ebpf"


@contextmanager
def foreign_program(host: Host) -> Iterator[None]:
    program = _ebpf.Object(str(XDP_PASS), "xdp_pass")
    with host.enter():
        fd = _ebpf.attach(program.program_fd, _index("eth0"), True)
    try:
        yield
    finally:
        _ebpf.detach(fd)
        os.close(fd)


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


# --- Death -------------------------------------------------------------------------------


class Gets:
    """Gets through one node in a thread, each tried once: an answer that does not come is a failure."""

    def __init__(self, host: Host, node: LabNode, names: list[str]) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._arguments = host, str(node.address), names
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Gets":
        self._thread.start()
        self.more(100)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more are done."""
        until = self.done + count
        wait_until(lambda: self.done >= until or self.failures, "gets to be done")

    def _run(self) -> None:
        host, address, names = self._arguments
        with host.enter(), Client(address, attempts=1, timeout=3) as client:
            while not self._ended.is_set() and not self.failures:
                name = names[self.done % len(names)]
                try:
                    if client.get(name) != value_of(name):
                        self.failures.append(f"{name}: wrong")
                except KdhtError as error:
                    self.failures.append(f"{name}: {error!r}")
                self.done += 1


def owned_by_others(client: Host, node: LabNode) -> list[str]:
    mine = node.status()["node_id"]
    with client.enter(), Client(str(node.address)) as asking:
        owners = {name: asking.trace(name)[-1].contact for name in keys(KEYS)[:200]}
    return [name for name, owner in owners.items() if owner and owner.id.hex() != mine]


def test_a_killed_daemons_node_goes_on_forwarding(tmp_path: Path) -> None:
    with built("ke-kill", tmp_path, 4) as (cluster, client):
        node = cluster.nodes[1]
        names = owned_by_others(client, node)
        program = ebpf_status(node)["program"]
        with Gets(client, node, names) as gets:
            node.kill()
            gets.more(1000)
            assert attached(node.host) == "native"
            node.start()
            cluster.wait_ready()
            wait_until(lambda: ebpf_status(node)["table"] == "own", "the new daemon's table")
            gets.more(1000)
        assert gets.failures == []
        status = ebpf_status(node)
        assert (status["state"], status["adopted"]) == ("up", True)
        assert status["program"] != program
        with client.enter():
            outcome = asyncio.run(get_all(cluster, keys(KEYS), KEYS))
        assert (outcome.wrong, outcome.lost) == ([], [])


def test_the_next_daemon_removes_leftovers_of_another_datapath(tmp_path: Path) -> None:
    with built("ke-left", tmp_path, 2) as (cluster, _):
        node = cluster.nodes[1]
        pins = pins_of(cluster)[1]
        node.kill()
        assert attached(node.host) == "native"
        assert pins.exists()
        config = node.log.with_name("kdhtd.toml")
        config.write_text(config.read_text().replace('kind = "ebpf"', 'kind = "socket"'))
        node.start()
        cluster.wait_ready()
        assert attached(node.host) == ""
        assert not pins.exists()


# --- The end -----------------------------------------------------------------------------


def is_running(node: LabNode) -> bool:
    with suppress(NoDaemon):
        return node.status()["state"] == "running"
    return False


def test_a_stop_leaves_nothing_unless_it_is_asked_to(tmp_path: Path) -> None:
    with built("ke-stop", tmp_path, 2) as (cluster, _):
        pins = pins_of(cluster)
        first, second = cluster.nodes
        forwarding = "net/ipv4/conf/eth0/forwarding"
        assert first.host.sysctl(forwarding) == "1"
        assert first.stop() == 0
        assert attached(first.host) == ""
        assert not pins[0].exists()
        assert first.host.sysctl(forwarding) == "0"
        assert first.host.run(["nft", "list", "tables"]).stdout == ""
        config = second.log.with_name("kdhtd.toml")
        config.write_text(config.read_text().replace("[datapath]", "[datapath]\nebpf_keep = true"))
        second.stop()
        second.start()
        wait_until(lambda: is_running(second), "the node to start")
        assert second.call("switch", kind="socket")["kind"] == "socket"
        assert (attached(second.host), pins[1].exists()) == ("", False)
        assert second.call("switch", kind="ebpf")["kind"] == "ebpf"
        assert second.stop() == 0
        assert (attached(second.host), pins[1].exists()) == ("native", True)
        config.write_text(config.read_text().replace("ebpf_keep = true", ""))
        second.start()
        wait_until(lambda: is_running(second), "the node to start")
        assert ebpf_status(second)["adopted"]
        assert second.stop() == 0
        assert attached(second.host) == ""
        assert not pins[1].exists()


# --- One datapath, without a daemon --------------------------------------------------------


@contextmanager
def datapath(host: Host, state: Path, *hosts: str, **options: object) -> Iterator[EbpfDatapath]:
    """The datapath of a node without contacts."""
    addresses = tuple(Address.of(each, PORT) for each in hosts)
    publisher = Publisher(Core())
    options = {"node_id": OTHER_ID, "addresses": addresses, "runtime_dir": state, **options}
    path = EbpfDatapath(publisher, EbpfOptions(**options))
    with host.enter():
        path.start()
        try:
            yield path
        finally:
            path.stop()


def test_without_native_support_it_is_generic_and_says_so(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("one")
    host.run(["ip", "link", "add", "d0", "type", "bridge"])
    host.run(["ip", "link", "set", "d0", "up"])
    host.add_address("d0", "10.9.9.1/24")
    with datapath(host, tmp_path, "10.9.9.1") as path:
        assert path.status()["modes"] == {"d0": "generic"}
        assert path.status()["state"] == "up"


def test_a_host_does_not_become_a_router(lab: Lab, tmp_path: Path) -> None:
    """left eth1 --- eth1 node eth2 --- eth2 right: what is not ours does not cross, in either family."""
    left, node, right = (lab.host(name) for name in ("left", "node", "right"))
    lab.link(left, node, "eth1", addresses={
        "left": ["10.31.0.2/24", "fd31::2/64"], "node": ["10.31.0.1/24", "fd31::1/64"]})  # fmt: skip
    lab.link(right, node, "eth2", addresses={
        "right": ["10.32.0.2/24", "fd32::2/64"], "node": ["10.32.0.1/24", "fd32::1/64"]})  # fmt: skip
    for host, router4, router6 in ((left, "10.31.0.1", "fd31::1"), (right, "10.32.0.1", "fd32::1")):
        host.run(["ip", "-4", "route", "add", "default", "via", router4])
        host.run(["ip", "-6", "route", "add", "default", "via", router6])
    own = ("10.31.0.1", "10.32.0.1", "fd31::1", "fd32::1")
    with datapath(node, tmp_path, *own) as path, udp(left, "fd31::2") as six, udp(left, "10.31.0.2") as four:
        assert set(path.status()["modes"]) == {"eth1", "eth2"}
        assert [node.sysctl(f"net/{ip}/conf/eth1/forwarding") for ip in ("ipv4", "ipv6")] == ["1", "1"]
        with udp(right, "fd32::2", 7777) as right6, udp(right, "10.32.0.2", 7777) as right4:
            six.sendto(b"across", ("fd32::2", 7777))
            four.sendto(b"across", ("10.32.0.2", 7777))
            wait_until(lambda: node.counters()["unrouted"] == 1, "the guard's count")
            with udp(node, "fd32::1") as near6, udp(node, "10.32.0.1") as near4:
                near6.sendto(b"near", ("fd32::2", 7777))
                near4.sendto(b"near", ("10.32.0.2", 7777))
            assert right6.recv(100) == right4.recv(100) == b"near"
    assert node.sysctl("net/ipv6/conf/eth1/forwarding") == "0"


def test_maps_of_another_layout_are_left_for_new_ones(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lab.host("one", ipv4="10.9.9.1/24")
    with datapath(host, tmp_path, "10.9.9.1") as first:
        old = first.status()["program"]
        pins = first.options.pins
        first.leave()
    monkeypatch.setattr(_ebpf, "LAYOUT", "another")
    ready = threading.Event()
    with datapath(host, tmp_path, "10.9.9.1", ready=ready.is_set) as second:
        assert netlink.xdp_of("eth0").program == old
        ready.set()
        second.config_changed()
        wait_until(lambda: netlink.xdp_of("eth0").program == second.status()["program"], "the new program")
        wait_until(lambda: len(list(pins.glob("maps-*"))) == 1, "the old maps to go")
        assert second.status()["table"] == "own"
    assert not pins.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda monkeypatch: monkeypatch.setattr("kdht.datapath.ebpf.program.OBJECT", Path("/nowhere")),
         "without its XDP program: install clang"),
        (lambda monkeypatch: monkeypatch.setitem(sys.modules, "kdht.datapath.ebpf._ebpf", None),
         r"without eBPF .*: install clang and libbpf"),
    ],
    ids=["no program", "no libbpf"],
)  # fmt: skip
def test_a_build_without_ebpf_says_what_to_do(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    says: str,
) -> None:
    host = lab.host("one", ipv4="10.9.9.1/24")
    monkeypatch.delattr("kdht.datapath.ebpf._ebpf", raising=False)
    spoil(monkeypatch)
    with pytest.raises(DatapathError, match=says), datapath(host, tmp_path, "10.9.9.1"):
        pass
