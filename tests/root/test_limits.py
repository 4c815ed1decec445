"""Who may send how much, with real daemons: the same on socket, nfqueue and ebpf, over IPv4 and IPv6.

client   other   n1   n2   n3
  |        |     |    |    |
--+--------+-----+----+----+-- br0
"""

import os
import random
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6

from kdht import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Message, parse
from kdht.wire._shared import PORT, Flag, Op, Status

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NODES = 3
CLIENT = {4: "10.53.48.250", 6: "fd53:48:0:1::250"}
OTHER = {4: "10.53.48.251", 6: "fd53:48:0:2::251"}
NODE = {4: "10.53.48.{}", 6: "fd53:48::{}"}
COSTLY = (Op.QUORUM_GET, Op.WATCH, Op.TRACE, Op.MEMBERS)
WRITE_OPS = (Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW)
EVERY_OP = (Op.GET, *WRITE_OPS, *COSTLY)
WAYS = [(kind, version) for kind in ("socket", "nfqueue", "ebpf") for version in (4, 6)]


class Stage:
    """A cluster, and two hosts beside it."""

    def __init__(self, cluster: Cluster, client: Host, other: Host, version: int) -> None:
        self.cluster, self.client, self.other, self.version = cluster, client, other, version
        self.nodes = [NODE[version].format(number) for number in range(1, NODES + 1)]


@contextmanager
def stage(
    tmp_path: Path, kind: str, version: int, *, lab: str = "t-lim", **settings: dict[str, object]
) -> Iterator[Stage]:
    with Lab(f"{lab}-{os.getpid() % 1000}") as lab:
        places = places_in(lab, NODES, ipv4=version == 4, ipv6=version == 6)
        hosts = []
        for name, host in (("client", CLIENT), ("other", OTHER)):
            family = {f"ipv{version}": f"{host[version]}/{24 if version == 4 else 48}"}
            hosts.append(lab.host(name, **family))
        if version == 6:  # the clients are in networks of their own
            for place in places:
                place.host.run(["ip", "-6", "route", "add", "fd53:48::/48", "dev", "eth0"])
        if kind == "ebpf":
            lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=kind, settings=settings) as cluster:
            yield Stage(cluster, *hosts, version)


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def without_limits(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A cluster with the defaults, for all tests that need nothing else."""
    with stage(tmp_path_factory.mktemp("o"), *request.param, lab="t-limo") as on:
        yield on


def asked(op: Op, number: int, **fields: object) -> bytes:
    return bytes(Message(op=op, key=random.randbytes(20), request_id=number, **fields).pack())


def answers(
    host: Host,
    target: str,
    requests: list[bytes],
    seconds: float,
    wait: float = 2.0,
    enough: int | None = None,
) -> list[Status]:
    """Send them evenly in so many seconds; the statuses of what came back, until `wait` seconds are silent or it is `enough`."""
    with host.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    found: list[Status] = []
    with sock:
        sock.connect((target, PORT))
        begun = time.monotonic()
        for number, request in enumerate(requests):
            while time.monotonic() < begun + seconds * number / len(requests):
                time.sleep(0.001)
            sock.send(request)
        sock.settimeout(wait)
        try:
            while len(found) != enough:
                found.append(parse(sock.recv(2048)).status)
        except TimeoutError:
            pass
    return found


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_a_rate_limits_one_client_at_every_node(tmp_path: Path, kind: str, version: int) -> None:
    with stage(tmp_path, kind, version, datapath={"rate": 100, "write_rate": 50}) as on:
        reads = [asked(Op.GET, number, body=bytes(100)) for number in range(1500)]
        got = len(answers(on.client, on.nodes[0], reads, 1.0))
        assert 90 <= got <= 260
        writes = [asked(Op.PUT, number, body=bytes(20)) for number in range(1500)]
        assert 45 <= len(answers(on.client, on.nodes[0], writes, 1.0)) <= 130
        # An eighth of the GETs, for each costs the cluster as much as eight.
        costly = [asked(COSTLY[number % len(COSTLY)], number, body=bytes(100)) for number in range(1500)]
        assert 11 <= len(answers(on.client, on.nodes[0], costly, 1.0)) <= 33
        with on.other.enter(), Client(on.nodes, timeout=5) as client:
            for number in range(20):
                client.put(f"k{number}", b"v")
                assert client.get(f"k{number}") == b"v"


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_a_forbidden_client_gets_no_answer(tmp_path: Path, kind: str, version: int) -> None:
    with stage(tmp_path, kind, version, access={"writes": "open", "not_from": [CLIENT[version]]}) as on:
        requests = [
            asked(op, number, body=bytes(20 * (op == Op.PUT))) for number in range(20) for op in EVERY_OP
        ]
        for node in on.nodes:
            assert answers(on.client, node, requests, 0.2, wait=0.5) == []
        with on.other.enter(), Client(on.nodes, timeout=5) as client:
            client.put("key", b"value")
            assert client.get("key") == b"value"


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_a_client_that_may_not_write_can_read(tmp_path: Path, kind: str, version: int) -> None:
    access = {"writes": "open", "write_not_from": [CLIENT[version]]}
    with stage(tmp_path, kind, version, access=access) as on:
        for node in on.nodes:
            writes = [asked(op, number, body=bytes(20)) for op in WRITE_OPS for number in range(5)]
            assert answers(on.client, node, writes, 0.1, wait=0.5) == []
            for op in EVERY_OP[:1] + COSTLY:
                requests = [asked(op, number, body=bytes(20)) for number in range(5)]
                # A cluster without a processor takes its time: only an answer that never comes is missing.
                assert len(answers(on.client, node, requests, 0.1, wait=20, enough=5)) == 5, op
        with on.other.enter(), Client(on.nodes, timeout=5) as client:
            client.put("key", b"value")
        with on.client.enter(), Client(on.nodes, timeout=5) as client:
            assert client.get("key") == b"value"


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_write_cookies_stop_forged_sources_only(tmp_path: Path, kind: str, version: int) -> None:
    settings = {"access": {"writes": "open", "write_cookie": True}, "node": {"cookies": False}}
    with stage(tmp_path, kind, version, **settings) as on:
        for node in on.nodes:
            blind = [asked(op, number, body=bytes(20)) for op in WRITE_OPS for number in range(20)]
            blind += [asked(Op.WATCH, number, body=bytes(4)) for number in range(20)]
            assert set(answers(on.client, node, blind, 0.1, wait=0.5)) == {Status.COOKIE_NEEDED}
        with on.client.enter(), Client(on.nodes, timeout=5) as client:
            client.put("key", b"value")
            assert client.get("key") == b"value"
            assert next(client.watch("key")).value == b"value"


def test_a_captured_read_brings_few_answers(without_limits: Stage) -> None:
    on = without_limits
    for number, node in enumerate(on.nodes):
        captured = [asked(Op.GET, number, body=bytes(1000))] * 200
        begun = time.monotonic()
        got = len(answers(on.client, node, captured, 0.5, wait=0.5))
        # Eight in each second of the clock that it lasts.
        assert 1 <= got <= 8 * (time.monotonic() - begun + 2)


# --- Attacks under which honest writes go on --------------------------------------------------------


@contextmanager
def meanwhile(host: Host, target: str, requests: list[bytes], rate: int) -> Iterator[None]:
    """Send these datagrams again and again, so many a second."""
    ended = threading.Event()
    with host.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((target, PORT))

    def flood() -> None:
        begun, sent = time.monotonic(), 0
        while not ended.is_set():
            while sent < (time.monotonic() - begun) * rate:
                sock.send(requests[sent % len(requests)])
                sent += 1
            time.sleep(0.005)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sock.close()


def put_times(on: Stage, count: int = 40) -> list[float]:
    """Seconds of honest PUTs, one after the other."""
    found = []
    with on.other.enter(), Client(on.nodes, timeout=5) as client:
        for number in range(count):
            begun = time.monotonic()
            client.put(f"honest{number}", b"v")
            found.append(time.monotonic() - begun)
    return found


def stop_all(on: Stage, seconds: float) -> None:
    """No node treats anything meanwhile. What comes waits for them."""
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for node in on.cluster.nodes:
            os.kill(node.pid, number)
        time.sleep(seconds)


def counted(on: Stage, event: str) -> int:
    """At the sockets of all nodes: there requests end, whatever the datapath is."""
    return sum(int(node.stats()["datapaths"]["socket"][event]) for node in on.cluster.nodes)


def test_a_flood_of_absent_keys_stops_neither_writes_nor_neighbours(without_limits: Stage) -> None:
    on = without_limits
    before = {event: counted(on, event) for event in ("refused_misses", "late_reads")}
    flood = [asked(Op.GET, number, body=bytes(16)) for number in range(20_000)]
    with meanwhile(on.client, on.nodes[0], flood, 4000):
        time.sleep(1)
        times = put_times(on)
        # A queue of less than a second: the flooder's reads of absent keys go beyond its budget.
        stop_all(on, 0.5)
        wait_until(lambda: counted(on, "refused_misses") > before["refused_misses"], "refused reads")
        # One of more than a second: what waited too long is shed.
        stop_all(on, 1.5)
        wait_until(lambda: counted(on, "late_reads") > before["late_reads"], "shed requests")
        times += put_times(on)
        contacts = [node.status()["contacts"] for node in on.cluster.nodes]
    print(f"p50 {statistics.median(times):.4f} s, longest {max(times):.3f} s")
    assert contacts == [NODES - 1] * NODES
    assert statistics.median(times) < 1


def forged_errors(version: int, count: int = 500) -> list[tuple[str, bytes]]:
    """Port unreachable, as if from each node to each other, with a message quoted that nobody sent."""
    made = []
    for number in range(count):
        one, other = random.sample([NODE[version].format(n) for n in range(1, NODES + 1)], 2)
        message = Message(
            op=Op.STORE,
            key=random.randbytes(20),
            request_id=number,
            flags=Flag.FORWARDED,
            hops=1,
            body=bytes(16),
        ).pack()
        udp = UDP(sport=PORT, dport=PORT) / bytes(message)
        if version == 4:
            packet = IP(src=other, dst=one) / ICMP(type=3, code=3) / (IP(src=one, dst=other) / udp)
        else:
            packet = IPv6(src=other, dst=one) / ICMPv6DestUnreach(code=4) / (IPv6(src=one, dst=other) / udp)
        made.append((one, bytes(packet)))
    return made


@contextmanager
def errors_meanwhile(host: Host, version: int, rate: int) -> Iterator[list[int]]:
    ended, counted = threading.Event(), [0]
    packets = forged_errors(version)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with host.enter():
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def flood() -> None:
        begun = time.monotonic()
        while not ended.is_set():
            while counted[0] < (time.monotonic() - begun) * rate:
                target, packet = packets[counted[0] % len(packets)]
                sock.sendto(packet, (target, 0))
                counted[0] += 1
            time.sleep(0.005)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield counted
    finally:
        ended.set()
        thread.join()
        sock.close()


def unreachable_seen(on: Stage) -> int:
    paths = [path for node in on.cluster.nodes for path in node.status()["datapaths"]]
    return sum(path.get("unreachable", 0) for path in paths)


def test_forged_icmp_errors_change_nothing(without_limits: Stage) -> None:
    on = without_limits
    before = unreachable_seen(on)
    calm = statistics.median(put_times(on))
    with errors_meanwhile(on.client, on.version, 4000) as sent:
        time.sleep(0.5)
        times = put_times(on, 100)
        stats = [node.stats() for node in on.cluster.nodes]
    seen = unreachable_seen(on) - before
    print(
        f"calm {1000 * calm:.1f} ms, p50 {1000 * statistics.median(times):.1f} ms, "
        f"longest {1000 * max(times):.0f} ms, {sent[0]} forged, {seen} seen"
    )
    assert seen > sent[0] / 2
    assert sum(each["replication"].get("calls_unreachable", 0) for each in stats) == 0
    assert sum(each["node"].get("unreachable", 0) for each in stats) == 0
    assert statistics.median(times) < 10 * calm + 0.01
