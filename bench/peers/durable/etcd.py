"""etcd, three members, its defaults: a PUT is synced by the leader and one follower before it is confirmed."""

import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds
from bench.peers.durable import grpc
from bench.peers.durable.base import HOME, NODES, START, ask_tcp, found, free_ports, listens, started
from kdht.lab.wait import wait_until

PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
# Of 1, 4, 8 and 32 requests under way on each connection, 32 cost etcd least at 128 outstanding (103 µs a PUT beside 160 with 1), and
# as little as any at 32 (four interleaved rounds).
STREAMS = 32


class Running:
    """A Store. Asks the leader: a follower would only pass the requests on."""

    def __init__(self, values: Sequence[bytes], pids: Sequence[int], leader: int) -> None:
        self._values, self._pids, self._leader = values, pids, leader

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pids)

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        return self.ask([put_request(key_of(n), self._values[n]) for n in numbers], [], outstanding)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing | None:
        requests = [grpc.request(RANGE, {1: key_of(n)}) for n in numbers]
        return self.ask(requests, [self._values[n] for n in numbers], outstanding)

    def ask(
        self, requests: Sequence[bytes], answers: Sequence[bytes], outstanding: int, count: int | None = None
    ) -> Timing:
        """Calls of one length."""
        streams = min(outstanding, STREAMS)
        return ask_tcp("grpc", [self._leader], requests, answers, outstanding // streams, streams, count)


@dataclass(frozen=True)
class Etcd:
    """A Durable."""

    name: str = "etcd"
    notes: str = "Debian's 3.4, its defaults; gRPC to the leader, up to 32 requests under way on each connection. Its reads are linearizable."

    def missing(self) -> str | None:
        return None if found("etcd") else "etcd is not installed"

    @contextmanager
    def store(self, values: Sequence[bytes], directory: Path) -> Iterator[Running]:
        with cluster(directory) as (pids, leader):
            yield Running(values, pids, leader)


def key_of(number: int) -> bytes:
    return b"key-%016d" % number


def put_request(key: bytes, value: bytes, lease: int = 0) -> bytes:
    return grpc.request(PUT, {1: key, 2: value} | ({3: lease} if lease else {}))


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[list[int], int]]:
    """Three members: their processes, and the leader's port."""
    ports = free_ports(2 * NODES)
    clients, peers = ports[:NODES], ports[NODES:]
    everybody = ",".join(f"m{n}=http://{HOME}:{peers[n]}" for n in range(NODES))
    with ExitStack() as stack:
        pids = []
        for n in range(NODES):
            command = [found("etcd") or "etcd", "--name", f"m{n}", "--data-dir", directory / f"etcd{n}"]
            command += [
                "--initial-cluster",
                everybody,
                "--initial-cluster-state",
                "new",
                "--log-level",
                "error",
            ]
            for option, port in (("client", clients[n]), ("peer", peers[n])):
                command += [f"--listen-{option}-urls", f"http://{HOME}:{port}"]
            command += ["--advertise-client-urls", f"http://{HOME}:{clients[n]}"]
            command += ["--initial-advertise-peer-urls", f"http://{HOME}:{peers[n]}"]
            pids.append(stack.enter_context(started(command, directory / f"etcd{n}.log")).pid)
        wait_until(lambda: all(map(listens, clients)), "etcd to listen", START)
        wait_until(lambda: any(map(_leads, clients)), "etcd to have a leader", START)
        yield pids, next(port for port in clients if _leads(port))


def _leads(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOME}:{port}/metrics", timeout=5) as answer:
            return b"\netcd_server_is_leader 1\n" in answer.read()
    except OSError:
        return False
