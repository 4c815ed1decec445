"""The whole nfqueue datapath with real packets: re-addressed, relayed, failing open, put back.

bridge --+-- client eth0 10.41.0.9/24, fd41::9/64
         +-- n1 eth0 10.41.0.1/24, fd41::1/64      n1 knows n2, n2 knows n3,
         +-- n2 eth0 10.41.0.2/24, fd41::2/64      n3 owns the key
         +-- n3 eth0 10.41.0.3/24, fd41::3/64
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from chain import IDS, KEY, request
from nfq import Node, udp

from kdht._routing import Core
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions
from kdht.errors import DatapathError
from kdht.lab.namespaces import is_running
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, parse
from kdht.wire._shared import MAX_BODY, PORT, Flag

pytestmark = pytest.mark.root

CLIENT = {4: "10.41.0.9", 6: "fd41::9"}
HOSTS = {4: "10.41.0.%d", 6: "fd41::%d"}


@pytest.fixture
def client_host(lab: Lab) -> Host:
    return lab.host("client", ipv4=f"{CLIENT[4]}/24", ipv6=f"{CLIENT[6]}/64")


@pytest.fixture
def make(lab: Lab, client_host: Host, tmp_path: Path):
    """Three linked nodes with these options."""

    def make(family: int = 4, **options: object) -> list[Node]:
        nodes = []
        for number, node_id in enumerate(IDS, 1):
            addresses = [HOSTS[each] % number for each in (4, 6)]
            host = lab.host(f"n{number}", ipv4=f"{addresses[0]}/24", ipv6=f"{addresses[1]}/64")
            nodes.append(Node(host, node_id, addresses, tmp_path, **options))
        nodes[0].knows(0, nodes[1], family)
        nodes[1].knows(1, nodes[2], family)
        nodes[2].reply = b"the value"
        return nodes

    return make


@contextmanager
def all_running(nodes: list[Node]) -> Iterator[None]:
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node.running())
        yield


def ask(client: socket.socket, target: str, body: bytes = b"", tries: int = 1) -> bytes:
    """One get and its answer's body, checked; repeated after a second up to `tries` times."""
    data = request(body=body)
    client.settimeout(10 if tries == 1 else 1)
    for _ in range(tries):
        client.sendto(data, (target, PORT))
        try:
            while (reply := parse(client.recvfrom(2048)[0])).request_id != parse(data).request_id:
                pass
        except TimeoutError:
            continue
        assert (reply.key, reply.flags) == (KEY, Flag.REPLY | Flag.FORWARDED)
        return reply.body
    raise AssertionError(f"no answer after {tries} tries")


# --- The way of a packet ----------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("body", [b"", b"p" * 333, b"x" * MAX_BODY])
def test_queues_forward_a_request_and_its_answer(make, client_host, family, body) -> None:
    nodes = make(family)
    with all_running(nodes), udp(client_host, CLIENT[family]) as client:
        entry = HOSTS[family] % 1
        data = request(body=body)
        client.sendto(data, (entry, PORT))
        answer, source = client.recvfrom(2048)
        assert source[:2] == (entry, PORT), "the address that was asked answers"
        assert parse(answer).body == b"the value"
        assert parse(answer).request_id == parse(data).request_id
        assert [node.count("forwarded") for node in nodes] == [1, 1, 0]
        assert [node.count("relayed") for node in nodes] == [1, 0, 0]
        assert nodes[2].count("local") == 1
        assert [node.status()["nft"]["forwarded"] for node in nodes] == [2, 1, 0]
        assert [node.core.counters(1)["ENTERED"] for node in nodes] == [0, 0, 0], "no socket treated it"
        assert [len(node.received) for node in nodes] == [0, 0, 1]


def test_over_several_queues_every_answer_is_right(make, client_host) -> None:
    nodes = make(queues=2)
    with all_running(nodes), udp(client_host, CLIENT[4]) as client:
        for _ in range(200):
            assert ask(client, HOSTS[4] % 1) == b"the value"
        assert sum(node.count("packets") for node in nodes) == 200 * 4
        assert all(len(node.status()["queues"]) == 2 for node in nodes)


def test_bad_packets_are_dropped_and_counted(make, client_host) -> None:
    node = make()[0]
    good = request()
    bad = {"BAD_VERSION": good[:4] + b"\x09" + good[5:], "BAD_LENGTH": good + b"more", "TRUNCATED": good[:-1]}
    with node.running(), udp(client_host, CLIENT[4]) as client:
        for data in bad.values():
            client.sendto(data, (HOSTS[4] % 1, PORT))
        wait_until(lambda: node.count("dropped") == len(bad), "all verdicts")
        assert node.received == []
        counted = node.core.counters(8)
        assert all(counted[reason] == 1 for reason in bad)


PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])
"""An IPv6 options header that holds nothing but PadN; the kernel fills in what follows it."""


def add_ip_options(_: Host, sender: socket.socket) -> None:
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 4)


def add_destination_options(_: Host, sender: socket.socket) -> None:
    sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, PADDING)


def cut_into_fragments(host: Host, _: socket.socket) -> None:
    host.run(["ip", "link", "set", "eth0", "mtu", "1280"])
    host.run(["ip", "route", "add", f"{HOSTS[4] % 1}/32", "dev", "eth0", "mtu", "lock", "600"])


@pytest.mark.parametrize(
    ("family", "prepare", "reason"),
    [
        (4, add_ip_options, "IP_OPTIONS"),
        (4, cut_into_fragments, "FRAGMENT"),
        (6, add_destination_options, "EXT_HEADER"),
    ],
)
def test_the_queue_drops_unusual_packets(make, client_host, family: int, prepare, reason: str) -> None:
    node = make()[0]
    with node.running(), udp(client_host, CLIENT[family]) as client:
        prepare(client_host, client)
        client.sendto(request(body=bytes(1000)), (HOSTS[family] % 1, PORT))
        wait_until(lambda: node.core.counters(8)[reason] == 1, "the verdict")
        assert node.count("dropped") == 1
        assert node.status()["nft"]["forwarded"] == 0
        assert node.received == []


def test_a_packet_longer_than_the_copy_goes_to_the_socket(lab, make, client_host) -> None:
    """Only a jumbo frame can be: the socket drops it then, with the same reason as the core would."""
    node = make()[0]
    for host in lab.hosts.values():
        for link in json.loads(host.run(["ip", "-j", "link"]).stdout):
            host.run(["ip", "link", "set", link["ifname"], "mtu", "4000"])
    with node.running(), udp(client_host, CLIENT[4]) as client:
        client.sendto(request() + bytes(2000), (HOSTS[4] % 1, PORT))
        wait_until(lambda: node.count("unread") == 1, "the unread packet")
        wait_until(lambda: node.core.counters(1)["TOO_LONG"] == 1, "the socket's verdict")


def test_plain_packets_in_a_batch_are_all_accepted(make, client_host) -> None:
    """Runs of local messages share verdicts; the socket gets each of them, once and in order."""
    owner = make(max_len=8192)[2]
    owner.reply = b""
    sent = [request() for _ in range(2000)]
    with owner.running(), udp(client_host, CLIENT[4]) as client:
        for at, data in enumerate(sent):
            client.sendto(data, (HOSTS[4] % 3, PORT))
            if at % 500 == 499:
                wait_until(lambda at=at: len(owner.received) == at + 1, "what was sent so far")
        assert [parse(each.data).request_id for each in owner.received] == [
            parse(data).request_id for data in sent
        ]
        assert owner.count("batches") < owner.count("local") == 2000


# --- Failing open -----------------------------------------------------------------------


@contextmanager
def load(client: Host, target: str) -> Iterator[None]:
    """Datagrams without end, from a thread; answers are not read."""
    ended = threading.Event()

    def send() -> None:
        with udp(client, CLIENT[4]) as sender:
            while not ended.is_set():
                for _ in range(50):
                    sender.sendto(request(), (target, PORT))
                ended.wait(0.005)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_sockets_answer_while_a_killed_worker_is_replaced(make, client_host) -> None:
    nodes = make()
    entry = nodes[0]
    with all_running(nodes), udp(client_host, CLIENT[4]) as client, load(client_host, HOSTS[4] % 1):
        for deaths in itertools.count(1):
            pid = entry.status()["worker"]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_running(pid), "the worker's end")
            assert ask(client, HOSTS[4] % 1, tries=10) == b"the value"
            wait_until(lambda pid=pid: entry.status()["worker"] not in (None, pid), "another worker")
            if deaths == 2:
                break
        before = entry.count("forwarded")
        wait_until(lambda: entry.count("forwarded") > before, "its verdicts")
        assert entry.status()["workers_started"] == 3
        assert entry.status()["state"] == "up"
        assert entry.core.counters(1)["ENTERED"] > 0, "the socket treated what the dead worker could not"


def test_while_the_worker_is_dead_everything_is_answered_by_sockets(make, client_host, monkeypatch) -> None:
    monkeypatch.setattr("kdht.datapath.nfqueue.keeper.FIRST_PAUSE", 1e6)
    monkeypatch.setattr("kdht.datapath.nfqueue.keeper.LAST_PAUSE", 1e6)
    nodes = make()
    with all_running(nodes), udp(client_host, CLIENT[4]) as client:
        for node in nodes:
            os.kill(node.status()["worker"], signal.SIGKILL)
            wait_until(lambda node=node: node.status()["worker"] is None, "the worker's end")
        status = nodes[0].status()
        assert status["state"] == "degraded"
        assert "ended with status -9" in status["why"]
        for _ in range(50):
            assert ask(client, HOSTS[4] % 1) == b"the value"
        assert [node.core.counters(1)["RELAYED"] for node in nodes] == [50, 0, 0]


def test_a_queue_of_one_under_load_fails_open(make, client_host) -> None:
    nodes = make(max_len=1)
    with all_running(nodes), udp(client_host, CLIENT[4]) as client, load(client_host, HOSTS[4] % 1):
        for _ in range(50):
            assert ask(client, HOSTS[4] % 1, tries=10) == b"the value"
        wait_until(lambda: nodes[0].core.counters(1)["ENTERED"] > 0, "packets that the full queue let pass")
        assert nodes[0].count("forwarded") > 0
        assert all(node.count("full") == 0 for node in nodes), "a full queue drops nothing"


def test_every_queue_was_told_to_fail_open(make) -> None:
    node = make(queues=2)[0]
    with node.running():
        wait_until(lambda: node.count("fail_open") == 2, "the kernel's acknowledgement")


# --- Start and stop ---------------------------------------------------------------------


def test_stop_leaves_nothing_and_start_may_follow(make, client_host) -> None:
    node = make()[0]
    before = node.host.run(["sysctl", "-a"], check=False).stdout.count("net.")
    for _ in range(2):
        with node.running():
            worker = node.status()["worker"]
            assert node.status()["state"] == "up"
        assert not is_running(worker)
        assert node.host.queues() == []
        assert node.host.run(["nft", "list", "tables"]).stdout == ""
        assert node.host.sysctl("net/ipv4/conf/eth0/forwarding") == "0"
        assert node.status() == {"state": "down", "why": "not started"}
    assert node.host.run(["sysctl", "-a"], check=False).stdout.count("net.") == before


def test_stop_under_load_loses_no_packet_in_the_queue(make, client_host) -> None:
    """The rules go first and the worker answers what waits: then only the socket's verdicts follow."""
    nodes = make()
    with all_running(nodes), udp(client_host, CLIENT[4]) as client, load(client_host, HOSTS[4] % 1):
        wait_until(lambda: nodes[0].count("forwarded") > 100, "some load")
        with nodes[0].host.enter():
            nodes[0].datapath.stop()
        assert ask(client, HOSTS[4] % 1, tries=10) == b"the value"


def test_a_queue_that_another_program_has(make, tmp_path) -> None:
    first = make()[0]
    second = NfqueueDatapath(
        Core(),
        NfqueueOptions(
            addresses=tuple(first.addresses), table="kdht_two", runtime_dir=first.options.runtime_dir
        ),
    )
    with first.running():
        tables = first.host.run(["nft", "list", "tables"]).stdout
        with first.host.enter(), pytest.raises(DatapathError, match="cannot bind queue 5348"):
            second.start()
        assert first.host.run(["nft", "list", "tables"]).stdout == tables
        assert first.status()["state"] == "up"
        assert first.host.sysctl("net/ipv4/conf/eth0/forwarding") == "1"


def test_two_nodes_in_one_namespace(make, client_host, tmp_path) -> None:
    nodes = make()
    one = nodes[0]
    guest = Node(one.host, IDS[0], ["10.41.0.1"], tmp_path, port=PORT + 1, table="kdht_two", first_queue=7000)
    with one.running():
        with one.host.enter():
            guest.datapath.start()
        with all_running(nodes[1:]), udp(client_host, CLIENT[4]) as client:
            assert ask(client, HOSTS[4] % 1) == b"the value"
            with one.host.enter():
                guest.datapath.stop()
            assert ask(client, HOSTS[4] % 1) == b"the value"
        assert one.count("forwarded") == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"nft": "/nowhere/nft"}, "install nftables"),
        ({"interfaces": ("nope0",)}, "no interface nope0"),
        ({"interfaces": ("lo",)}, "remove lo"),
        ({"queues": 2, "first_queue": 65535}, "queue 65536|end at 65535"),
        ({"addresses": (Address.of("10.99.0.1", PORT),)}, "no interface but lo holds an own address"),
    ],
)
def test_a_start_that_cannot_work_undoes_what_was_half_done(make, tmp_path, options, complaint) -> None:
    node = make()[0]
    fields = {"addresses": tuple(node.addresses), "runtime_dir": tmp_path, **options}
    before = node.host.run(["sysctl", "-a"], check=False).stdout
    with node.host.enter(), pytest.raises(DatapathError, match=complaint):
        NfqueueDatapath(node.core, NfqueueOptions(**fields)).start()
    assert node.host.run(["nft", "list", "tables"]).stdout == ""
    assert node.host.queues() == []
    after = node.host.run(["sysctl", "-a"], check=False).stdout
    assert [line for line in after.splitlines() if "conf." in line] == [
        line for line in before.splitlines() if "conf." in line
    ]


def test_removed_rules_are_loaded_again(make) -> None:
    node = make()[0]
    with node.running():
        node.host.run(["nft", "delete", "table", "inet", "kdht"])
        wait_until(lambda: "forwarded" in node.host.counters(), "the table")
        assert node.status()["state"] == "up"


def test_the_worker_does_not_outlive_the_daemon(make, tmp_path) -> None:
    """Killed with SIGKILL, the daemon cannot tell it to go."""
    node = make()[0]
    code = (
        "import os, pathlib, signal, sys\n"
        "from kdht._routing import Core\n"
        "from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions\n"
        "from kdht.wire import Address\n"
        "path = NfqueueDatapath(Core(), NfqueueOptions(\n"
        "    addresses=(Address.of('10.41.0.1', 5348),), runtime_dir=pathlib.Path(sys.argv[1])))\n"
        "path.start(); print(path.status()['worker'], flush=True)\n"
        "signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    daemon = node.host.popen(
        [sys.executable, "-c", code, str(tmp_path / "n1")], stdout=subprocess.PIPE, env=environment
    )
    worker = int(daemon.stdout.readline())
    assert is_running(worker)
    daemon.kill()
    wait_until(lambda: not is_running(worker), "the worker's end")
    daemon.stdout.close()
    with node.running():
        assert node.status()["state"] == "up", "the next start clears up"
    assert node.host.sysctl("net/ipv4/conf/eth0/forwarding") == "0"
