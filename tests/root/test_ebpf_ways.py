"""Where the XDP program sends what it re-addresses, on real links: on through another interface, or in a VLAN.

client eth1 ------- eth1 node eth2 ------- eth2 other

VLANs are played: tagged frames are sent raw, and the program is told that the VLAN's interface is
eth1 itself. So the kernel needs no VLANs of its own.
"""

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import builders
import pytest
from chain import IDS, configure, request
from nfq import udp

from kdht._routing import Core
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.publish import Publisher
from kdht.lab.netns import XDP_PASS, Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact, parse
from kdht.wire._shared import PORT, Flag

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
NODE, CLIENT = 1, 2
"""Last parts of addresses: each link's node, and who is at its other end."""


def at(family: int, network: int, host: int) -> str:
    return f"10.41.{network}.{host}" if family == 4 else f"fd41:{network}::{host}"


def on_link(family: int, network: int, host: int) -> str:
    return at(family, network, host) + ("/24" if family == 4 else "/64")


def mac_of(host: Host, interface: str) -> str:
    return str(json.loads(host.run(["ip", "-j", "link", "show", interface]).stdout)[0]["address"])


def know(node: Host, interface: str, address: str, neighbour: Host) -> None:
    """A neighbour entry; without it the program leaves the packet to the socket."""
    mac = mac_of(neighbour, interface)
    node.run(["ip", "neigh", "replace", address, "lladdr", mac, "dev", interface, "nud", "permanent"])


@contextmanager
def taking(*ends: tuple[Host, str]) -> Iterator[None]:
    """Let these ends of veths take frames that XDP sends: they need a program, too."""
    program = _ebpf.Object(str(XDP_PASS), "xdp_pass")
    with ExitStack() as stack:
        for host, interface in ends:
            with host.enter():
                stack.callback(
                    os.close, _ebpf.attach(program.program_fd, socket.if_nametoindex(interface), True)
                )
        yield


@contextmanager
def routing(node: Host, state: Path, own: list[str], hop: str) -> Iterator[EbpfDatapath]:
    """The datapath of a node that knows one other, at `hop`."""
    publisher = Publisher(Core())
    addresses = tuple(Address.of(each, PORT) for each in own)
    configure(publisher, IDS[0], *addresses)
    publisher.set_bucket(0, [Contact(IDS[1], *Address.of(hop, PORT))])
    path = EbpfDatapath(publisher, EbpfOptions(node_id=IDS[0], addresses=addresses, runtime_dir=state))
    with node.enter():
        path.start()
        try:
            yield path
        finally:
            path.stop()


def assert_forwarded(client: Host, source: str, entry: str, hop: tuple[Host, str], usual: str) -> None:
    """A client's request to `entry` arrives at the next hop, from the node's usual address."""
    with udp(*hop, PORT) as there, udp(client, source) as asking:
        sent = request()
        asking.sendto(sent, (entry, PORT))
        data, sender = there.recvfrom(2048)
        message = parse(data)
        assert sender[:2] == (usual, PORT)
        assert message.request_id == parse(sent).request_id
        assert Flag.FORWARDED in message.flags
        assert message.client == Address.of(source, asking.getsockname()[1])
        assert message.entry == Address.of(entry, PORT)


@FAMILIES
def test_a_packet_leaves_by_another_interface(lab: Lab, tmp_path: Path, family: int) -> None:
    client, node, other = (lab.host(name) for name in ("client", "node", "other"))
    for end, interface in ((client, "eth1"), (other, "eth2")):
        number = int(interface[-1])
        both = {end.name: [on_link(family, number, CLIENT)], "node": [on_link(family, number, NODE)]}
        lab.link(end, node, interface, addresses=both)
    hop, own = at(family, 2, CLIENT), [at(family, number, NODE) for number in (1, 2)]
    know(node, "eth2", hop, other)
    with taking((client, "eth1"), (other, "eth2")), routing(node, tmp_path, own, hop) as path:
        assert_forwarded(client, at(family, 1, CLIENT), own[0], (other, hop), own[0])
        assert path.counters()["ENTERED"] == 1


AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata: status, len, snaplen, mac, net, VLAN tag and its kind."""
SOL_PACKET, PACKET_AUXDATA = 263, 8


@contextmanager
def raw(host: Host) -> Iterator[socket.socket]:
    """A socket for whole frames at eth1, which tells their VLAN tags."""
    with host.enter(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as there:
        there.bind(("eth1", 0))
        there.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        there.settimeout(10)
        yield there


def next_request(there: socket.socket, hop: str) -> tuple[bytes, int]:
    """The next IP packet to `hop`, and the VLAN tag that it came with."""
    while True:
        frame, beside, _, _ = there.recvmsg(2048, socket.CMSG_SPACE(AUXDATA.size))
        packet = frame[14:]
        if Address.of(hop, 0).ip.endswith(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]):
            return packet, AUXDATA.unpack(beside[0][2])[5]


def tagged(client: Host, node: Host, family: int, tag: int) -> bytes:
    """A client's request in a frame with that VLAN tag."""
    link = bytes.fromhex((mac_of(node, "eth1") + mac_of(client, "eth1")).replace(":", ""))
    kind = b"\x08\x00" if family == 4 else b"\x86\xdd"
    ends = Address.of(at(family, 1, CLIENT), 4000), Address.of(at(family, 1, NODE), PORT)
    return link + b"\x81\x00" + struct.pack(">H", tag) + kind + bytes(builders.packet(request(), *ends))


@FAMILIES
def test_in_a_vlan(lab: Lab, tmp_path: Path, family: int) -> None:
    """Back into the VLAN that it came from, tag and all; from one that no interface has, to the socket."""
    client, node = (lab.host(name) for name in ("client", "node"))
    both = {end.name: [on_link(family, 1, last)] for end, last in ((client, CLIENT), (node, NODE))}
    lab.link(client, node, "eth1", addresses=both)
    hop, own = at(family, 1, CLIENT), at(family, 1, NODE)
    know(node, "eth1", hop, client)
    with taking((client, "eth1")), routing(node, tmp_path, [own], hop) as path, raw(client) as there:
        with node.enter():
            eth1 = socket.if_nametoindex("eth1")
        path._networks.append(path._networks[0]._replace(ifindex=eth1, vlan=5))
        path._publish_state()
        there.send(tagged(client, node, family, 0x6005))  # priority 3
        packet, tag = next_request(there, hop)
        assert tag == 0x6005
        assert builders.checksums_by_scapy(packet) == packet
        assert path.counters()["ENTERED"] == 1
        others = path.counters()["NOT_OURS"]
        there.send(tagged(client, node, family, 6))
        wait_until(lambda: path.counters()["NOT_OURS"] > others, "the count")
        assert path.counters()["ENTERED"] == 1
