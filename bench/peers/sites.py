"""Where a cluster runs: on loopback, or on hosts of its own, each a network namespace on one bridge (root)."""

import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

from bench.peers import counting
from bench.peers.missing import PeerMissing
from kdht.errors import DatapathError
from kdht.lab.cluster import Place, places_in, places_on_loopback
from kdht.lab.neighbours import introduce
from kdht.lab.netns import Host, Lab

CLIENT = "10.53.48.250/24"


class Site(Protocol):
    """Room for a cluster, and for the one who asks it."""

    places: Sequence[Place]
    counts_all: bool
    """Whether `cpu_seconds` is of all processes, the load's own too."""

    def peers(self) -> list[str]:
        """An IP:PORT for each place, as programs other than kdht are used to."""

    def popen(self, number: int, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program at that place."""

    def client(self) -> AbstractContextManager[None]:
        """The calling thread is where the load runs until the block ends."""

    def let_xdp_send(self) -> None:
        """Make it fit for the ebpf datapath. Raises PeerMissing where that runs nowhere."""

    def packets(self) -> int:
        """What all have received so far."""

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        """Processor time so far of these processes, or of all."""


class Loopback:
    """A Site: kdht's nodes have addresses of 127.0.0.0/8 and one port, peers 127.0.0.1 and ports of their own.

    OpenDHT's nodes do not find each other in any other way.
    """

    counts_all = False

    def __init__(self, nodes: int) -> None:
        self.places: Sequence[Place] = places_on_loopback(nodes)

    def peers(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in _free_ports(len(self.places))]

    def popen(self, number: int, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, **options)

    def client(self) -> AbstractContextManager[None]:
        return nullcontext()

    def let_xdp_send(self) -> None:
        raise PeerMissing("many nodes have one interface here, which takes one XDP program")

    def packets(self) -> int:
        return counting.datagrams()

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        return counting.cpu_seconds(pids)


class Hosts:
    """A Site: what a host's kernel does for others is nobody's own, so processor time is the machine's."""

    counts_all = True

    def __init__(self, lab: Lab, nodes: int) -> None:
        self.places: Sequence[Place] = places_in(lab, nodes)
        self._lab = lab
        self._client = lab.host("client", ipv4=CLIENT)
        introduce(lab)

    def peers(self) -> list[str]:
        return [str(place.addresses[0]) for place in self.places]

    def popen(self, number: int, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        return self._host(number).popen(command, **options)

    def client(self) -> AbstractContextManager[None]:
        return self._client.enter()

    def let_xdp_send(self) -> None:
        try:
            self._lab.let_xdp_send()
        except DatapathError as error:
            raise PeerMissing(str(error)) from None

    def packets(self) -> int:
        return sum(map(_received, [self._client, *map(self._host, range(len(self.places)))]))

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        return counting.machine_cpu_seconds()

    def _host(self, number: int) -> Host:
        host = self.places[number].host
        assert host is not None
        return host


def _free_ports(count: int) -> list[int]:
    """UDP ports of 127.0.0.1 that nobody has now."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)
        ]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def _received(host: Host) -> int:
    with host.enter():
        return counting.packets("eth0")


@contextmanager
def loopback(nodes: int) -> Iterator[Site]:
    """No root needed."""
    yield Loopback(nodes)


@contextmanager
def hosts(nodes: int) -> Iterator[Site]:
    """Raises LabError without root."""
    with Lab("peers") as lab:
        yield Hosts(lab, nodes)
