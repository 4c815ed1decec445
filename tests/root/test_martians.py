"""Packets from outside with a source of the node itself, and other packets that the kernel's stack would refuse.

bridge --+-- client eth0 10.45.0.9, fd45::9              sends whole frames
         +-- n1 eth0 10.45.0.1 and .3, fd45::1 and ::3   the node, by each datapath; a program listens there too
         +-- n2 eth0 10.45.0.2, fd45::2                  owns the key, by its socket

The answer to a request from an own address goes to the program that listens there, with content of the attacker's
choice. After each attack a good request goes the same way and is answered, so what had not come by then never will.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import packet
from chain import IDS, answer, configure, request
from nfq import arrived, udp

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions
from kdht.datapath.publish import Publisher
from kdht.datapath.socket.transport import SocketTransport
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact, parse
from kdht.wire._shared import PORT, Reason

pytestmark = pytest.mark.root

HOST = {4: "10.45.0.%d", 6: "fd45::%d"}
LENGTH = {4: 24, 6: 64}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
KINDS = ("socket", "nfqueue", "ebpf")
SOCKET_LANE, QUEUE_LANE = 1, 8
VICTIM = 7777


class Stage(NamedTuple):
    kind: str
    node: Host
    client: Host
    publisher: Publisher
    datapath: Any
    victim: socket.socket
    """A program on the node's host, at all its addresses."""
    clients: dict[int, socket.socket]
    wire: socket.socket

    def reasons(self) -> dict[str, int]:
        """Counts by the datapath under test alone."""
        if self.kind == "ebpf":
            return dict(self.datapath.counters())
        return dict(self.publisher.core.counters(SOCKET_LANE if self.kind == "socket" else QUEUE_LANE))

    def counted(self, reason: Reason) -> int:
        return self.reasons()[reason.name]

    def route_by(self, version: int) -> None:
        """Requests go on to n2 by this version, and its link address is known."""
        self.publisher.set_bucket(0, [contact(version)])
        before = self.counted(Reason.ENTERED)
        wait_until(lambda: self.assert_serves(version) or self.counted(Reason.ENTERED) > before, "the table")

    def send(self, raw: bytes, to: str = "") -> None:
        macs = bytes.fromhex(
            (to or mac_of(self.node)).replace(":", "") + mac_of(self.client).replace(":", "")
        )
        self.wire.send(macs + (b"\x86\xdd" if raw[0] >> 4 == 6 else b"\x08\x00") + raw)

    def assert_serves(self, version: int) -> None:
        sent = request()
        self.clients[version].sendto(sent, (HOST[version] % 1, PORT))
        assert parse(self.clients[version].recvfrom(2048)[0]).request_id == parse(sent).request_id


def mac_of(host: Host) -> str:
    return str(json.loads(host.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["address"])


def addresses_of(number: int) -> list[Address]:
    return [Address.of(HOST[version] % number, PORT) for version in HOST]


def contact(version: int) -> Contact:
    return Contact(IDS[1], *Address.of(HOST[version] % 2, PORT))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("t-martians") as lab:
        for name, number in (("client", 9), ("n1", 1), ("n2", 2)):
            lab.host(
                name, **{f"ipv{version}": f"{HOST[version] % number}/{LENGTH[version]}" for version in HOST}
            )
        for version in HOST:
            lab.hosts["n1"].add_address("eth0", f"{HOST[version] % 3}/{LENGTH[version]}")
        lab.let_xdp_send()
        with owner(lab.hosts["n2"]):
            yield lab


def owner(host: Host) -> ExitStack:
    core, stack = Core(), ExitStack()
    configure(core, IDS[1], *addresses_of(2))
    transport = SocketTransport(core, addresses_of(2))

    def receive(batch: list[Datagram]) -> None:
        transport.send([answer(each, b"the attacker's words", int(time.time())) for each in batch])

    with host.enter():
        transport.start(Handlers.without_records(receive))
    stack.callback(transport.stop)
    return stack


@pytest.fixture(scope="module", params=KINDS)
def stage(
    lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    kind, host, client = request.param, lab.hosts["n1"], lab.hosts["client"]
    own, publisher = [*addresses_of(1), *addresses_of(3)], Publisher(Core())
    configure(publisher, IDS[0], *own)
    transport = SocketTransport(publisher.core, own, lane=SOCKET_LANE)
    datapath = made(kind, publisher, tuple(own), tmp_path_factory.mktemp("state"))
    with ExitStack() as stack:
        with host.enter():
            transport.start(Handlers.without_records(lambda batch: None))
            stack.callback(transport.stop)
            if datapath is not None:
                datapath.start()
                stack.callback(stopped, host, datapath)
        with client.enter():
            wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            wire.bind(("eth0", 0))
        yield Stage(
            kind,
            host,
            client,
            publisher,
            datapath,
            stack.enter_context(udp(host, "::", VICTIM)),
            {version: stack.enter_context(udp(client, HOST[version] % 9)) for version in HOST},
            wire,
        )


def made(kind: str, publisher: Publisher, own: tuple[Address, ...], state: Path) -> Any:
    if kind == "nfqueue":
        return NfqueueDatapath(publisher.core, NfqueueOptions(addresses=own, runtime_dir=state))
    if kind == "ebpf":
        return EbpfDatapath(publisher, EbpfOptions(node_id=IDS[0], addresses=own, runtime_dir=state))
    return None


def stopped(host: Host, datapath: Any) -> None:
    with host.enter():
        datapath.stop()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(stage: Stage, request: pytest.FixtureRequest) -> int:
    stage.route_by(request.param)
    return request.param


def attack(stage: Stage, version: int, source: str, target: int = 1) -> list[tuple[bytes, str, int]]:
    """What a program on the node's host got."""
    arrived(stage.victim)
    ends = Address.of(source, VICTIM), Address.of(HOST[version] % target, PORT)
    stage.send(bytes(packet(request(), *ends)))
    for _ in range(3):
        stage.assert_serves(version)
    return arrived(stage.victim)


@pytest.mark.parametrize("number", [1, 3])
def test_an_own_source_reaches_no_program_of_the_host(stage: Stage, version: int, number: int) -> None:
    before = stage.counted(Reason.MARTIAN)
    assert attack(stage, version, HOST[version] % number) == []
    # For IPv4 the kernel, or nft in place of it, is first.
    if version == 6 or stage.kind == "ebpf":
        assert stage.counted(Reason.MARTIAN) == before + 1


def test_a_loopback_source_reaches_no_program_of_the_host(stage: Stage, version: int) -> None:
    before = stage.counted(Reason.MARTIAN)
    assert attack(stage, version, LOOPBACK[version]) == []
    if stage.kind == "ebpf":
        assert stage.counted(Reason.MARTIAN) == before + 1


def test_own_sources_are_dropped_even_where_the_kernel_accepts_them(stage: Stage, version: int) -> None:
    """accept_local: somebody's decision, and nfqueue's own way to let re-addressed packets out."""
    settings = [f"/proc/sys/net/ipv4/conf/{name}/accept_local" for name in ("all", "eth0")]
    before = stage.node.run(["cat", *settings]).stdout.split()
    stage.node.run(["sh", "-c", f"echo 1 | tee {' '.join(settings)}"])
    try:
        assert attack(stage, version, HOST[version] % 3) == []
    finally:
        for value, setting in zip(before, settings, strict=True):
            stage.node.run(["sh", "-c", f"echo {value} >{setting}"])


def test_local_clients_ask_from_own_addresses(stage: Stage, version: int) -> None:
    for number in (1, 3):
        with udp(stage.node, HOST[version] % number) as asking:
            sent = request()
            asking.sendto(sent, (HOST[version] % 1, PORT))
            assert parse(asking.recvfrom(2048)[0]).request_id == parse(sent).request_id


@pytest.mark.parametrize("source", ["224.0.0.1", "255.255.255.255", "0.0.0.0", "0.1.2.3"])
def test_a_source_that_no_host_has(stage: Stage, source: str) -> None:
    stage.route_by(4)
    before = stage.counted(Reason.MARTIAN)
    assert attack(stage, 4, source) == []
    if stage.kind == "ebpf":
        assert stage.counted(Reason.MARTIAN) == before + 1


@pytest.mark.parametrize("to", ["02:00:00:00:00:99", "03:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"])
def test_a_frame_for_another_address_is_left_to_the_kernel(stage: Stage, version: int, to: str) -> None:
    stage.node.run(["ip", "link", "set", "eth0", "promisc", "on"])
    before = stage.reasons()
    ends = Address.of(HOST[version] % 9, 4000), Address.of(HOST[version] % 1, PORT)
    stage.send(bytes(packet(request(), *ends)), to)
    stage.assert_serves(version)
    after = stage.reasons()
    if stage.kind == "ebpf":
        assert after["ENTERED"] == before["ENTERED"] + 1


def test_a_wrong_checksum_of_the_ip_header_ends_the_packet(stage: Stage) -> None:
    stage.route_by(4)
    before = stage.reasons()
    spoilt = packet(request(), Address.of(HOST[4] % 9, 4000), Address.of(HOST[4] % 1, PORT))
    spoilt[10] ^= 1
    stage.send(bytes(spoilt))
    stage.assert_serves(4)
    after = stage.reasons()
    assert after["ENTERED"] == before["ENTERED"] + 1
    if stage.kind == "ebpf":
        assert after["BAD_CHECKSUM"] == before["BAD_CHECKSUM"] + 1


def test_the_interface_gets_another_address_meanwhile(stage: Stage, version: int) -> None:
    """The sockets serve until the program knows of it."""
    old = mac_of(stage.node)
    for mac in ("02:00:00:00:00:77", old):
        stage.node.run(["ip", "link", "set", "eth0", "address", mac])
        stage.client.run(["ip", "neigh", "flush", "all"])
        stage.assert_serves(version)
        before = stage.counted(Reason.ENTERED)
        wait_until(lambda: stage.assert_serves(version) or stage.counted(Reason.ENTERED) > before, "it")  # noqa: B023
