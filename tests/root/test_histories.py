"""Short histories of real daemons under faults, on each datapath; what treats the network; what is left afterwards.

client   n1   n2   ...   n5    n6 (joins and leaves)
  |      |    |          |      |
--+------+----+-- br0 ---+------+--
"""

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from paths import ROOT

from histories.network import Network, Treatment
from histories.run import Plan, run
from histories.stage import PREFIX
from kdht.lab import namespaces
from kdht.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def plan(seed, datapath, kinds, *, ipv6=False, minutes=0.2):
    return Plan(
        seed=seed,
        operations=100_000,
        minutes=minutes,
        kinds=kinds,
        datapath=datapath,
        nodes=5,
        replicas=3,
        ipv6=ipv6,
        loopback=False,
        pause_ms=10.0,
        keys=3,
        generation=200,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "datapath", "ipv6", "kinds"),
    [
        (1, "socket", False, ("loss", "pause", "duplicate", "skew")),
        (2, "nfqueue", True, ("kill", "loss", "one-way", "pause")),
        (3, "ebpf", False, ("delay", "cut-off", "pause", "restart-all")),
    ],
)
def test_a_short_history_keeps_every_promise(tmp_path, seed, datapath, ipv6, kinds):
    report = run(plan(seed, datapath, kinds, ipv6=ipv6), tmp_path, print)
    print(report.outcomes)
    assert not report.undecided
    assert not [str(violation) for violation in report.violations]
    assert report.operations > 500


def test_ctrl_c_leaves_nothing(tmp_path):
    """A history that is interrupted half way: its namespaces and processes are gone, its records are kept."""
    command = [
        sys.executable,
        "-m",
        "histories",
        "--seed",
        "5",
        "--nemesis",
        "pause",
        "--keep",
        str(tmp_path),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acts = 0
        while acts < 2:
            assert process.poll() is None
            acts += "operations;" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
    assert not namespaces.existing(f"{PREFIX}.")
    assert not [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if b"histories.worker" in _command_of(path)
    ]
    assert list(tmp_path.rglob("w0.jsonl"))


def _command_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- The network ---------------------------------------------------------------------------


class Pair:
    """Two hosts with a UDP socket each; what the second has received."""

    def __init__(self, stack: ExitStack, ipv6: bool) -> None:
        lab = stack.enter_context(Lab("t-hist"))
        self.network = Network(lab, seed=1)
        stack.callback(self.network.close)
        self.sockets = []
        self.addresses = []
        for number, name in enumerate(("one", "two"), 1):
            address = f"fd53:48::{number}" if ipv6 else f"10.53.48.{number}"
            host = lab.host(name, **{"ipv6" if ipv6 else "ipv4": f"{address}/{64 if ipv6 else 24}"})
            self.network.add(host)
            with host.enter():
                sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            stack.enter_context(sock)
            sock.bind((address, 5348))
            sock.settimeout(3)
            self.sockets.append(sock)
            self.addresses.append((address, 5348))

    def send(self, count: int, sender: int = 0) -> None:
        for number in range(count):
            self.sockets[sender].sendto(number.to_bytes(2, "big") * 300, self.addresses[1 - sender])

    def received(self, receiver: int = 1, quiet: float = 0.5) -> list[int]:
        """All that comes until nothing came for `quiet` seconds."""
        sock = self.sockets[receiver]
        sock.settimeout(quiet)
        found = []
        try:
            while True:
                found.append(int.from_bytes(sock.recv(2048)[:2], "big"))
        except TimeoutError:
            return found


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def pair(request):
    with ExitStack() as stack:
        made = Pair(stack, request.param)
        made.send(1)  # the neighbours know each other
        assert made.received() == [0]
        yield made


def test_delayed_datagrams_arrive_whole_late_and_in_another_order(pair):
    pair.network.treat(["one"], Treatment(delay_ms=100, jitter_ms=100))
    began = time.monotonic()
    pair.send(50)
    pair.sockets[1].settimeout(3)
    first = int.from_bytes(pair.sockets[1].recv(2048)[:2], "big")
    assert time.monotonic() - began >= 0.1
    order = [first, *pair.received()]
    assert sorted(order) == list(range(50))
    assert order != sorted(order)
    pair.send(1, sender=1)
    assert pair.received(0) == [0]


def test_duplicates_arrive_and_end_with_the_treatment(pair):
    pair.network.treat(["one"], Treatment(duplicate_permille=1000, late_ms=200))
    pair.send(20)
    assert sorted(pair.received()) == sorted([*range(20), *range(20)])
    pair.network.treat(["one"], Treatment())
    pair.send(20)
    assert pair.received() == list(range(20))


def test_loss_takes_a_share_and_a_cut_takes_all_one_way(pair):
    pair.network.treat(["one"], Treatment(loss_permille=500))
    pair.send(400)
    assert 100 < len(pair.received()) < 300
    pair.network.treat(["one"], Treatment())
    pair.network.cut(["one"], ["two"])
    pair.send(5)
    assert not pair.received()
    pair.send(5, sender=1)
    assert len(pair.received(0)) == 5
    pair.network.join()
    pair.send(5)
    assert len(pair.received()) == 5
