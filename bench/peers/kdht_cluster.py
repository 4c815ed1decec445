"""kdht itself: real daemons, asked by the C load at one of them, as the peers are.

Each node has LevelDB with synced writes, three replicas of which two
confirm, and cookies on: the load asks for its cookie once, as every client does.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.peers.asking import Protocol, ask
from bench.peers.base import Timing
from bench.peers.sites import Site
from kdht.lab.cluster import Cluster
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until
from kdht.wire import NO_FLAGS, OFFSET, RECORD, hash_key, pack_request, parse
from kdht.wire._shared import HEADER_LEN, Flag, Op

PROTOCOL = Protocol(
    id_at=OFFSET["request_id"], id_size=8, status_at=OFFSET["status"], attempt_at=OFFSET["attempt"]
)
Client = Callable[[], AbstractContextManager[None]]
"""The calling thread is where the load runs until the block ends."""
SETTLE = 60.0
"""Seconds, at most, until all nodes have compared their records."""


@dataclass(frozen=True)
class Kdht:
    """A Kind, with one of the datapaths; `direct`: the load takes the answers to its gets from any node."""

    datapath: str = "socket"
    direct: bool = False

    scale = 1.0

    @property
    def name(self) -> str:
        return f"kdht-{self.datapath}" + ("-direct" if self.direct else "")

    @property
    def notes(self) -> str:
        written = "LevelDB, every write synced on 2 of 3 replicas before it is confirmed"
        answers = " Gets are answered directly, not by way of the entry node." if self.direct else ""
        return f"The {self.datapath} datapath. {written}.{answers}"

    def missing(self) -> str | None:
        return None

    @contextmanager
    def cluster(self, site: Site, values: Sequence[bytes], directory: Path) -> Iterator["Asked"]:
        if self.datapath == "ebpf":
            site.let_xdp_send()
        ids = spread(len(site.places))
        with Cluster(site.places, directory, datapath=self.datapath, ids=ids) as cluster:
            for node in cluster.nodes:
                wait_until(lambda node=node: node.status()["ready"], f"{node.name} to be ready", SETTLE)  # type: ignore[misc]
            yield Asked(cluster, values, site.client, self.direct)


class Asked:
    """A Running: writes by the first node, reads by the last."""

    def __init__(
        self,
        cluster: Cluster,
        values: Sequence[bytes],
        client: Client = nullcontext,
        direct: bool = False,
    ) -> None:
        self.cluster = cluster
        self._direct = direct
        self._values = values
        self._client = client
        self._addresses = [str(node.address) for node in cluster.nodes]
        with client():
            self.cookie = cookie(self._addresses[0])

    def pids(self) -> list[int]:
        return [node.pid for node in self.cluster.nodes]

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        requests = [put_request(key_of(n), self._values[n], self.cookie) for n in numbers]
        with self._client():
            return ask(self._addresses[:1], requests, [], PROTOCOL, outstanding)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing:
        requests = [get_request(key_of(n), self.cookie, self._direct) for n in numbers]
        answers = [self._values[n] for n in numbers]
        with self._client():
            return ask(self._addresses[-1:], requests, answers, PROTOCOL, outstanding)


def key_of(number: int) -> bytes:
    return hash_key(f"key-{number}")


def get_request(key: bytes, cookie: bytes, direct: bool = False, op: Op = Op.GET) -> bytes:
    """A GET, or another read of `key`."""
    message = pack_request(op, key, 0)
    message[OFFSET["flags"]] = Flag.DIRECT if direct else NO_FLAGS
    return _with_cookie(message, cookie)


def put_request(key: bytes, value: bytes, cookie: bytes) -> bytes:
    return _with_cookie(pack_request(Op.PUT, key, 0, RECORD.pack(0, 0, 0) + value), cookie)


def _with_cookie(message: bytearray, cookie: bytes) -> bytes:
    at = OFFSET["cookie"]
    message[at : at + len(cookie)] = cookie
    return bytes(message)


def cookie(address: str) -> bytes:
    """What the node at "IP:PORT" lets this host prove its address with, from any answer."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(bytes(pack_request(Op.GET, hash_key("no such key"), 1)), (host, int(port)))
        return parse(sock.recv(HEADER_LEN + 2048)).cookie.to_bytes(8, "big")
