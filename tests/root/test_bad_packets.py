"""Every bad packet, as a real one: counted by reason, never forwarded, and the node serves on.

bridge --+-- client eth0 10.43.0.9/24, fd43::9/64    sends, from a socket or frame by frame
         +-- n1 eth0 10.43.0.1/24, fd43::1/64        the node, with its queue and its socket
         +-- n2 eth0 10.43.0.2/24, fd43::2/64        owns the key; every frame that reaches it is seen

After each bad packet a good request goes the same way and is answered. A bridge keeps frames in
order, so what of the bad packet had not reached n2 by then never will.
"""

import itertools
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from bad_messages import NAMES, bad_messages
from builders import complete_ipv4, forwarded, ipv6, packet, request, udp
from chain import CLUSTER, IDS
from nfq import Node
from nfq import udp as udp_socket

from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact, parse
from kdht.wire import _shared as shared
from kdht.wire._shared import PORT, Reason

pytestmark = pytest.mark.root

HOST = {4: "10.43.0.%d", 6: "fd43::%d"}
CLIENT = {version: Address.of(HOST[version] % 9, 40000) for version in HOST}
ENTRY = {version: Address.of(HOST[version] % 1, PORT) for version in HOST}
SIGNER = (CLUSTER.epoch, CLUSTER.tag)
GOOD = itertools.count(1)
"""Request IDs: the same request is answered a few times only within a second."""
"""The request id of good requests; the builders give bad ones another."""
LANES = (1, 8)
"""The socket's and the queue's."""
ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}


class Stage(NamedTuple):
    """The node under test, and hands and eyes on both sides of it."""

    node: Node
    clients: dict[int, socket.socket]
    wire: socket.socket
    """Sends whole frames from the client's interface."""
    seen: socket.socket
    """Receives all frames at the next hop's interface."""
    macs: bytes
    """The beginning of every frame to the node."""

    def set_next_hop(self, version: int) -> None:
        self.node.core.set_bucket(0, [Contact(IDS[1], *Address.of(HOST[version] % 2, PORT))])

    def send(self, version: int, message: bytes) -> None:
        self.clients[version].sendto(message, (HOST[version] % 1, PORT))

    def send_packet(self, data: bytes) -> None:
        self.wire.send(self.macs + ETHERTYPE[data[0] >> 4] + data)

    def reasons(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for lane in LANES:
            counted.update(self.node.core.counters(lane))
        return counted

    def assert_counted(self, before: Counter[str], reasons: dict[str, int]) -> None:
        """Since `before`, these reasons and no others; waits for them."""
        wanted = Counter(reasons)
        wait_until(lambda: sum((self.reasons() - before).values()) >= wanted.total(), "the verdicts")
        assert self.reasons() - before == wanted

    def assert_serves(self, version: int) -> None:
        """A good request is answered over the queue, and it alone has reached the next hop."""
        before = self.node.count("forwarded")
        good = next(GOOD)
        self.send(version, request(request_id=good))
        answer = parse(self.clients[version].recvfrom(2048)[0])
        assert (answer.request_id, answer.body) == (good, b"the value")
        assert self.node.count("forwarded") == before + 1
        assert self.requests_seen() == [good]
        assert self.node.received == [], "the node's own services saw something"
        assert self.node.status()["workers_started"] == 1

    def requests_seen(self) -> list[int]:
        """The request ids of all our messages that came to the next hop since the last call."""
        found = []
        magic = shared.MAGIC.to_bytes(4, "big")
        try:
            while True:
                frame, origin = self.seen.recvfrom(4096)
                at = frame.find(magic)
                if origin[2] != socket.PACKET_OUTGOING and at >= 0:
                    found.append(int.from_bytes(frame[at + 8 : at + 16], "big"))
        except BlockingIOError:
            return found


def frames(host: Host) -> socket.socket:
    with host.enter():
        there = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        there.bind(("eth0", 0))
    there.setblocking(False)
    return there


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    state = tmp_path_factory.mktemp("state")
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("t-bad-packets"))
        client, one, two = (
            lab.host(name, ipv4=f"{HOST[4] % number}/24", ipv6=f"{HOST[6] % number}/64")
            for name, number in (("client", 9), ("n1", 1), ("n2", 2))
        )
        node, owner = (
            Node(host, IDS[number - 1], [HOST[4] % number, HOST[6] % number], state)
            for host, number in ((one, 1), (two, 2))
        )
        owner.reply = b"the value"
        for each in (node, owner):
            stack.enter_context(each.running())
        yield Stage(
            node,
            {version: stack.enter_context(udp_socket(client, HOST[version] % 9)) for version in HOST},
            stack.enter_context(frames(client)),
            stack.enter_context(frames(two)),
            b"".join(stack.enter_context(frames(host)).getsockname()[4] for host in (one, client)),
        )


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest, stage: Stage) -> int:
    """The IP version, in which the node knows its next hop."""
    stage.set_next_hop(request.param)
    return request.param


# --- Messages, in datagrams that any socket can send ---------------------------------------


@pytest.mark.parametrize("what", NAMES)
def test_a_message(stage: Stage, version: int, what: str) -> None:
    message, reason = bad_messages(SIGNER, ENTRY[version], now=int(time.time()))[what]
    if what == "a value of 1.5 KiB":
        reason = "FRAGMENT"  # on an Ethernet it cannot but be one
    before = stage.reasons()
    stage.send(version, message)
    stage.assert_counted(before, {reason: 1})
    stage.assert_serves(version)


def test_a_message_cut_at_every_length(stage: Stage, version: int) -> None:
    whole, before = request(body=b"some body"), stage.reasons()
    for length in range(len(whole)):
        stage.send(version, whole[:length])
    stage.assert_counted(before, {"TRUNCATED": shared.HEADER_LEN, "BAD_LENGTH": len(b"some body")})
    stage.assert_serves(version)


# --- Packets, made byte by byte ---------------------------------------------------------------


def good_packet(version: int) -> bytearray:
    return packet(request(), CLIENT[version], ENTRY[version])


def test_good_packets_are_forwarded(stage: Stage, version: int) -> None:
    """Else the other tests would prove nothing."""
    stage.assert_serves(version)
    stage.send_packet(packet(request(request_id=77), CLIENT[version], ENTRY[version]))
    stage.send(version, forwarded(SIGNER, time=int(time.time()), request_id=78))
    arrived: set[int] = set()
    wait_until(lambda: arrived.update(stage.requests_seen()) or {77, 78} <= arrived, "both at the next hop")


def with_udp_length(version: int, length: int) -> bytes:
    sent = good_packet(version)
    struct.pack_into(">H", sent, len(sent) - shared.HEADER_LEN - 4, length)
    return bytes(sent)


def summed(ipv4: bytearray) -> bytes:
    """The packet with the right checksum in its IP header."""
    header = ipv4[:20]
    complete_ipv4(header)
    return bytes(header + ipv4[20:])


def first_fragment() -> bytes:
    sent = good_packet(4)
    sent[6] |= 0x20
    return summed(sent)


def behind(header: bytes, kind: int) -> bytes:
    """An IPv6 packet with one extension header of that kind before its UDP."""
    return bytes(ipv6(header + udp(request(), CLIENT[6], ENTRY[6]), CLIENT[6], ENTRY[6], kind))


UDP_NEXT = b"\x11\x00"
PACKETS: dict[str, tuple[bytes, Reason]] = {
    "IP options": (packet(request(), CLIENT[4], ENTRY[4], options=b"\x01\x01\x01\x00"), Reason.IP_OPTIONS),
    "a record route option": (
        packet(request(), CLIENT[4], ENTRY[4], options=b"\x07\x07\x04" + bytes(5)), Reason.IP_OPTIONS),
    "a first fragment": (first_fragment(), Reason.FRAGMENT),
    "IPv6, hop-by-hop options": (behind(UDP_NEXT + b"\x01\x04" + bytes(4), 0), Reason.EXT_HEADER),
    "IPv6, destination options": (behind(UDP_NEXT + b"\x01\x04" + bytes(4), 60), Reason.EXT_HEADER),
    "IPv6, an atomic fragment": (behind(UDP_NEXT + bytes(2) + b"\0\0\0\7", 44), Reason.FRAGMENT),
    "IPv6, a first fragment": (behind(UDP_NEXT + b"\0\1\0\0\0\7", 44), Reason.FRAGMENT),
    "IPv6, no checksum": (packet(request(), CLIENT[6], ENTRY[6], "zero"), Reason.NO_CHECKSUM),
    "from no address": (packet(request(), Address.of("0.0.0.0", 40000), ENTRY[4]), Reason.MARTIAN),
    "from this node": (packet(request(), ENTRY[6]._replace(port=40000), ENTRY[6]), Reason.MARTIAN),
    "from port 0": (packet(request(), CLIENT[4]._replace(port=0), ENTRY[4]), Reason.BAD_ADDRESS),
    "IPv6, from port 0": (packet(request(), CLIENT[6]._replace(port=0), ENTRY[6]), Reason.BAD_ADDRESS),
    **{f"IPv{version}, a UDP length of {length}": (with_udp_length(version, length), Reason.BAD_IP)
       for version in HOST for length in (0, 7, 119, 121, 0xFFFF)},
}  # fmt: skip


@pytest.mark.parametrize("what", PACKETS)
def test_a_packet(stage: Stage, what: str) -> None:
    data, reason = PACKETS[what]
    stage.set_next_hop(data[0] >> 4)
    before = stage.reasons()
    stage.send_packet(data)
    stage.assert_counted(before, {reason.name: 1})
    stage.assert_serves(data[0] >> 4)


def test_a_packet_cut_at_every_length(stage: Stage, version: int) -> None:
    """The kernel stops it before any hook: no verdict, no harm."""
    whole, before = bytes(good_packet(version)), stage.reasons()
    for length in range(1, len(whole)):
        stage.send_packet(whole[:length])
    stage.assert_serves(version)
    assert stage.reasons() - before == Counter({"ENTERED": 1, "RELAYED": 1})


def test_a_packet_cut_at_every_length_whose_ip_header_says_so(stage: Stage, version: int) -> None:
    """From where nft can see port and magic on, it comes to the queue, and its UDP length lies."""
    whole, before = good_packet(version), stage.reasons()
    ip_len = 20 if version == 4 else 40
    for length in range(ip_len, len(whole)):
        cut = whole[:length]
        struct.pack_into(">H", cut, 2 if version == 4 else 4, length if version == 4 else length - ip_len)
        stage.send_packet(summed(cut) if version == 4 else bytes(cut))
    stage.assert_counted(before, {"BAD_IP": len(whole) - ip_len - 12})
    stage.assert_serves(version)
