"""The lists of addresses in [access] hold at the faces too: the node behind them sees the face's address alone.

friend .250   reader .251   stranger .252   n1 .1: DNS, HTTP and tracker
   |             |             |             |
---+-------------+-------------+-------------+--- br0
"""

import http.client
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

NODE = {4: "10.53.48.1", 6: "fd53:48::1"}
CLIENTS = {"friend": "fa", "reader": "fb", "stranger": "fc"}
DNS, HTTP, TRACKER = 53, 5381, 6969
SHORT, LONG = 1.0, 20.0
HASH = b"twenty bytes of hash"


def address(name: str, version: int) -> str:
    number = CLIENTS[name]
    return f"10.53.48.{int(number, 16)}" if version == 4 else f"fd53:48::{number}"


class Site(NamedTuple):
    cluster: Cluster
    hosts: dict[str, Host]
    version: int

    @property
    def node(self) -> str:
        return NODE[self.version]

    def counted(self, face: str, event: str) -> int:
        found = self.cluster.nodes[0].status()["faces"]
        return next(each["counters"].get(event, 0) for each in found if each["name"] == face)

    def counts_more(self, face: str, event: str, before: int) -> None:
        wait_until(lambda: self.counted(face, event) > before, f"{event} of {face}")


@pytest.fixture(scope="module", params=["socket", "nfqueue", "ebpf"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cluster, dict[str, Host]]]:
    both = (4, 6)
    settings = {
        "access": {
            "writes": "open",
            "not_from": [address("stranger", version) for version in both],
            "write_not_from": [address("reader", version) for version in both],
        },
        **{
            name: {"listen": [f"{NODE[4]}:{port}", f"[{NODE[6]}]:{port}"]}
            for name, port in (("dns", DNS), ("http", HTTP), ("tracker", TRACKER))
        },
    }
    with Lab(f"t-fas-{request.param}") as lab:
        hosts = {
            name: lab.host(name, ipv4=f"{address(name, 4)}/24", ipv6=f"{address(name, 6)}/64")
            for name in CLIENTS
        }
        places = places_in(lab, 1, ipv4=True, ipv6=True)
        if request.param == "ebpf":
            lab.let_xdp_send()
        directory = tmp_path_factory.mktemp("f")
        with Cluster(places, directory, datapath=request.param, settings=settings) as cluster:
            node = cluster.nodes[0]
            wait_until(lambda: [face["up"] for face in node.status()["faces"]] == [True] * 3, "the faces", 45)
            yield cluster, hosts


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def site(made: tuple[Cluster, dict[str, Host]], request: pytest.FixtureRequest) -> Site:
    return Site(*made, request.param)


# --- HTTP


def http_asked(site: Site, who: str, method: str, path: str, body: bytes | None = None) -> int:
    """The status; raises what http.client raises where there is no answer."""
    with site.hosts[who].enter():
        connection = http.client.HTTPConnection(site.node, HTTP, timeout=LONG)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        finally:
            connection.close()


def test_http_serves_whom_the_node_serves(site: Site) -> None:
    value, member = f"/kv/a{site.version}", f"/sets/s{site.version}?member=one"
    assert http_asked(site, "friend", "PUT", value, b"1") == 200
    assert http_asked(site, "friend", "PUT", member, b"10.0.0.7:80") == 200
    assert http_asked(site, "reader", "GET", value) == 200
    for path in (value, member):
        for method in ("PUT", "DELETE"):
            assert http_asked(site, "reader", method, path, b"2" if method == "PUT" else None) == 403
    before = site.counted("http", "not_allowed")
    for method in ("GET", "PUT", "DELETE"):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            http_asked(site, "stranger", method, value)
    site.counts_more("http", "not_allowed", before)
    assert http_asked(site, "friend", "DELETE", value) == 204
    assert http_asked(site, "friend", "DELETE", member) == 204


# --- DNS


def dns_asked(site: Site, who: str, *, is_tcp: bool) -> int | None:
    """The answer's code, None without an answer."""
    query = dns.message.make_query("ns.kdht.", "A")
    with site.hosts[who].enter():
        try:
            ask = dns.query.tcp if is_tcp else dns.query.udp
            return ask(query, site.node, SHORT if who == "stranger" else LONG, DNS).rcode()
        except (dns.exception.Timeout, ConnectionError, EOFError):
            return None


@pytest.mark.parametrize("is_tcp", [False, True], ids=["udp", "tcp"])
def test_dns_serves_whom_the_node_serves(site: Site, is_tcp: bool) -> None:
    assert dns_asked(site, "friend", is_tcp=is_tcp) == dns.rcode.NOERROR
    assert dns_asked(site, "reader", is_tcp=is_tcp) == dns.rcode.NOERROR
    before = site.counted("dns", "not_allowed")
    assert dns_asked(site, "stranger", is_tcp=is_tcp) is None
    site.counts_more("dns", "not_allowed", before)


# --- The tracker


def tracker_asked(site: Site, who: str, *requests: tuple[int, bytes]) -> list[int] | None:
    """The action of each answer to what goes out after a connect; None without an answer to that."""
    with site.hosts[who].enter():
        sock = socket.socket(socket.AF_INET if site.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(SHORT if who == "stranger" else LONG)
        sock.connect((site.node, TRACKER))
        sock.send(struct.pack(">QII", 0x41727101980, 0, 7))
        try:
            connection = struct.unpack(">IIQ", sock.recv(100))[2]
        except TimeoutError:
            return None
        actions = []
        for action, body in requests:
            sock.send(struct.pack(">QII", connection, action, 8) + body)
            actions.append(struct.unpack_from(">I", sock.recv(2048))[0])
        return actions


ANNOUNCE, SCRAPE, ERROR = 1, 2, 3


def announce_of(event: int) -> tuple[int, bytes]:
    fields = struct.pack(">QQQIIIIH", 0, 1, 0, event, 0, 99, 0xFFFFFFFF, 6881)
    return ANNOUNCE, HASH + b"-XX0001-abcdefghijkl" + fields


def test_the_tracker_serves_whom_the_node_serves(site: Site) -> None:
    started, stopped, scrape = announce_of(2), announce_of(3), (SCRAPE, HASH)
    assert tracker_asked(site, "friend", started, scrape, stopped) == [ANNOUNCE, SCRAPE, ANNOUNCE]
    assert tracker_asked(site, "reader", started, scrape, stopped) == [ERROR, SCRAPE, ERROR]
    before = site.counted("tracker", "not_allowed")
    assert tracker_asked(site, "stranger", started) is None
    site.counts_more("tracker", "not_allowed", before)
