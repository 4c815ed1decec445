"""The socket datapath where the network says no: full buffers, full queues, filters, missing IPv6.

bridge --+-- node eth0  10.7.0.1/24, 10.7.0.2/24, fd07::1/64, fd07::2/64
         +-- peer eth0  10.7.0.9/24, fd07::9/64
"""

import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from chain import IDS, configure, request

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import DatapathError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address
from kdht.wire._shared import MAX_DATAGRAM

pytestmark = pytest.mark.root

PORT = 5348
NODE = ["10.7.0.1/24", "10.7.0.2/24", "fd07::1/64", "fd07::2/64"]
PEER = {4: "10.7.0.9", 6: "fd07::9"}


@pytest.fixture
def node(lab: Lab) -> Host:
    lab.host("peer", ipv4=f"{PEER[4]}/24", ipv6=f"{PEER[6]}/64")
    node = lab.host("node", ipv4=NODE[0], ipv6=NODE[2])
    node.add_address("eth0", NODE[1])
    node.add_address("eth0", NODE[3])
    return node


@pytest.fixture
def start(node: Host) -> Iterator[Callable[..., tuple[SocketTransport, list[Datagram]]]]:
    """Starts a transport on the node, and stops it after the test."""
    running: list[SocketTransport] = []

    def start(*hosts: str) -> tuple[SocketTransport, list[Datagram]]:
        core, got = Core(), []
        addresses = [Address.of(host, PORT) for host in hosts]
        transport = SocketTransport(core, addresses)
        running.append(transport)
        configure(core, IDS[2], *addresses)
        with node.enter():
            transport.start(Handlers.without_records(got.extend))
        return transport, got

    yield start
    for transport in running:
        transport.stop()


@pytest.fixture
def peer(lab: Lab, node: Host) -> Iterator[dict[int, socket.socket]]:
    with lab.hosts["peer"].enter():
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with four, six:
        four.bind((PEER[4], 0))
        six.bind((PEER[6], 0))
        for sock in (four, six):
            sock.settimeout(10)
        yield {4: four, 6: six}


def address_of(sock: socket.socket) -> Address:
    return Address.of(*sock.getsockname()[:2])


@pytest.mark.parametrize(
    ("wildcard", "asked"),
    [("0.0.0.0", "10.7.0.1"), ("0.0.0.0", "10.7.0.2"), ("::", "fd07::1"), ("::", "fd07::2")],
)
def test_on_a_wildcard_the_answer_leaves_from_the_address_asked(start, peer, wildcard, asked):
    transport, got = start(wildcard)
    client = peer[6 if ":" in asked else 4]
    client.sendto(request(), (asked, PORT))
    wait_until(lambda: got, "a request")
    assert got[0].target == Address.of(asked, PORT)
    transport.send([Outgoing(b"answer", got[0].source, got[0].target)])
    data, source = client.recvfrom(100)
    assert (data, source[:2]) == (b"answer", (asked, PORT))


def slow_down(node: Host, limit: int) -> None:
    """Let the node's link take 1 kB/s, with `limit` bytes waiting."""
    node.run(
        [
            "tc",
            "qdisc",
            "replace",
            "dev",
            "eth0",
            "root",
            "tbf",
            "rate",
            "8kbit",
            "burst",
            "2000",
            "limit",
            str(limit),
        ]
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_full_send_buffer_costs_datagrams_and_not_the_sender(node, start, peer, family):
    transport, _ = start("10.7.0.1", "fd07::1")
    slow_down(node, 100_000_000)
    batch = [Outgoing(bytes(MAX_DATAGRAM), address_of(peer[family]))] * 1000
    sent = transport.send(batch)
    assert 0 < sent < 1000
    assert transport.status()["send_errors"] == {"EAGAIN": 1000 - sent}
    node.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    wait_until(lambda: transport.send(batch[:1]) == 1, "a writable socket")


def test_a_full_queue_of_the_interface_is_counted(node, start, peer):
    transport, _ = start("10.7.0.1")
    slow_down(node, 5000)
    batch = [Outgoing(bytes(MAX_DATAGRAM), address_of(peer[4]))] * 50
    # Of a bundle the kernel tells only whether any of it was taken. The first one finds room, the next ones do not.
    sent = [transport.send(batch) for _ in range(3)]
    assert sent[0] > 0
    assert sent[-1] < 50
    assert transport.status()["send_errors"] == {"ENOBUFS": 150 - sum(sent)}


def test_datagrams_forbidden_by_a_filter_are_counted(node, start, peer):
    transport, _ = start("10.7.0.1", "fd07::1")
    node.nft("table inet t { chain c { type filter hook output priority 0; ip daddr 10.7.0.9 drop; }; }")
    batch = [Outgoing(b"x", address_of(peer[family])) for family in (4, 6)]
    assert transport.send(batch) == 1
    assert peer[6].recv(10) == b"x"
    assert transport.status()["send_errors"] == {"EPERM": 1}


def test_without_ipv6_it_is_told(node, start):
    node.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    with pytest.raises(DatapathError, match="::1 is not an address of this machine"):
        start("::1")


UNPRIVILEGED = """
import sys
from kdht._routing import Core
from kdht.datapath.base import Handlers
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import DatapathError
from kdht.wire import Address

transport = SocketTransport(Core(), [Address.of("127.0.0.1", int(sys.argv[1]))])
try:
    transport.start(Handlers.without_records(print))
except DatapathError as error:
    sys.exit(str(error))
print(transport.status()["state"])
transport.stop()
"""


@pytest.mark.parametrize(("port", "said"), [(0, "up"), (1023, "ports under 1024 need CAP_NET_BIND_SERVICE")])
def test_without_any_capability_it_needs_a_high_port_only(node, port, said):
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = node.run([*without, sys.executable, "-c", UNPRIVILEGED, str(port)], check=False)
    assert said in (done.stdout + done.stderr)
    assert (done.returncode == 0) == (port == 0)
    assert len((done.stdout + done.stderr).splitlines()) == 1
