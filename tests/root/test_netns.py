"""The laboratory itself: what the other root tests stand on.

        bridge
n1 eth0 --+-- eth0 n2      n1 eth1 ------ eth1 n2
"""

import os
import signal
import socket
import subprocess
import sys

import pytest

from kdht.errors import LabError
from kdht.lab import namespaces, signals
from kdht.lab.neighbours import introduce
from kdht.lab.netns import Host, Lab

pytestmark = pytest.mark.root

PREFIX = "kdht-labtest"


@pytest.fixture
def lab():
    with Lab(PREFIX) as lab:
        yield lab


def udp(host: Host, address: str) -> socket.socket:
    with host.enter():
        there = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        there.settimeout(5)
        there.bind((address, 0))
    return there


@pytest.mark.parametrize(
    ("one", "other"), [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2"), ("10.8.0.1", "10.8.0.2")]
)
def test_a_datagram_arrives_at_once(lab: Lab, one: str, other: str) -> None:
    n1 = lab.host("n1", ipv4="10.9.0.1/24", ipv6="fd00:9::1/64")
    n2 = lab.host("n2", ipv4="10.9.0.2/24", ipv6="fd00:9::2/64")
    lab.link(n1, n2, addresses={"n1": ["10.8.0.1/24"], "n2": ["10.8.0.2/24"]})
    with udp(n1, one) as sender, udp(n2, other) as receiver:
        sender.sendto(b"hello", receiver.getsockname())
        data, source = receiver.recvfrom(100)
    assert (data, source[0]) == (b"hello", one)


def test_the_root_namespace_is_untouched(lab: Lab) -> None:
    before = sorted(os.listdir("/sys/class/net"))
    lab.host("n1", ipv4="10.9.0.1/24")
    assert sorted(os.listdir("/sys/class/net")) == before


def test_hosts_that_were_introduced_need_not_ask(lab: Lab) -> None:
    for number in (1, 2, 3):
        lab.host(f"h{number}", ipv4=f"10.7.0.{number}/24", ipv6=f"fd00:7::{number}/64")
    introduce(lab)
    for host, other in (("h1", "10.7.0.2"), ("h3", "fd00:7::1")):
        known = lab.hosts[host].run(["ip", "neigh", "show", "to", other]).stdout
        assert "PERMANENT" in known, known


def test_a_switched_off_link_carries_nothing(lab: Lab) -> None:
    n1, n2 = lab.host("n1", ipv4="10.9.0.1/24"), lab.host("n2", ipv4="10.9.0.2/24")
    n2.set_link("eth0", up=False)
    with udp(n1, "10.9.0.1") as sender, udp(n2, "10.9.0.2") as receiver:
        receiver.settimeout(0.1)
        sender.sendto(b"lost", receiver.getsockname())
        with pytest.raises(TimeoutError):
            receiver.recv(100)
        n2.set_link("eth0", up=True)
        receiver.settimeout(5)
        sender.sendto(b"hello", receiver.getsockname())
        assert receiver.recv(100) in (b"hello", b"lost")  # the first may have waited for its neighbour


def test_loss_takes_about_its_share(lab: Lab) -> None:
    n1, n2 = lab.host("n1", ipv4="10.9.0.1/24"), lab.host("n2", ipv4="10.9.0.2/24")
    n2.lose(500)
    with udp(n1, "10.9.0.1") as sender, udp(n2, "10.9.0.2") as receiver:
        for _ in range(1000):
            sender.sendto(b"x", receiver.getsockname())
        assert 300 < n2.counters()["lost"] < 700
        n2.lose(0)
        assert "lost" not in n2.counters()


COUNTED = """
table inet counted {
    counter arrived { }
    chain input { type filter hook input priority 0; udp dport 9999 counter name arrived; }
}
"""
UDP_SEGMENT = 103
"""linux/udp.h"""


@pytest.mark.parametrize(("cut", "packets"), [(False, 1), (True, 3)])
def test_datagrams_that_leave_together_are_counted_one_by_one(lab: Lab, cut: bool, packets: int) -> None:
    one, other = lab.host("one", ipv4="10.53.49.1/24"), lab.host("other", ipv4="10.53.49.2/24")
    if cut:
        lab.cut_bundles(other)
    other.nft(COUNTED)
    with one.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        with other.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("10.53.49.2", 9999))
            receiver.settimeout(5)
            sender.sendto(bytes(300), ("10.53.49.2", 9999))
            assert [len(receiver.recv(1000)) for _ in range(3)] == [100] * 3
    assert other.counters()["arrived"] == packets


def test_a_failed_command_says_why(lab: Lab) -> None:
    n1 = lab.host("n1")
    with pytest.raises(LabError, match=r"n1: nft -f -: .*syntax error"):
        n1.nft("nonsense")
    with pytest.raises(LabError, match=r"n1: sh -c .* no luck"):
        n1.run(["sh", "-c", "echo no luck >&2; exit 3"])


def test_processes_end_with_the_lab() -> None:
    with Lab(PREFIX) as lab:
        obedient = lab.host("n1").popen(["sleep", "1000"])
        orphan = lab.hosts["n1"].run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).stdout
    assert obedient.returncode == -signal.SIGTERM
    assert not namespaces.is_running(int(orphan))
    assert namespaces.existing(PREFIX) == []


def test_one_lab_of_a_prefix_at_a_time(lab: Lab) -> None:
    with pytest.raises(LabError, match="another laboratory"), Lab(PREFIX):
        pass
    assert namespaces.existing(PREFIX) != []


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Lab(PREFIX) as lab:
        lab.host("n1").popen(["true"])
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_waits_for_a_deferring_block() -> None:
    steps = []

    def interrupted() -> None:
        with signals.deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("through")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert steps == ["through"]


PROGRAM = f"""
import time
from kdht.lab.netns import Lab
with Lab("{PREFIX}") as lab:
    lab.host("n1").popen(["sleep", "1000"])
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def program():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"ready\n"
        yield it
        it.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(program: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    program.send_signal(number)
    assert program.wait(20) != 0
    assert namespaces.existing(PREFIX) == []


def test_leftovers_of_a_killed_run_are_removed(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()
    left = namespaces.processes(f"{PREFIX}.n1")
    assert left
    with Lab(PREFIX) as lab:
        assert list(lab.hosts) == ["bridge"]
    assert namespaces.existing(PREFIX) == []
    assert not any(map(namespaces.is_running, left))
