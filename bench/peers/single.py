"""One node and its client, in two network namespaces: kdht beside memcached, Redis, and a bare echo.

The server has one processor, the load the other. kdht's keys are its own; it is measured with its hot
records, without them, so that each answer comes from LevelDB, and with few keys that its XDP program answers.
The server's processor time is its processes' own: packets that the kernel handles elsewhere are not in it.
"""

import csv
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peers import kdht_cluster
from bench.peers.asking import Protocol, ask, program
from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds
from bench.peers.missing import PeerMissing
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT, Reason

ALONE, MANY = 1, 64
SERVER, CLIENT = "10.53.48.1", "10.53.48.200"
MEMCACHED = Protocol(id_at=0, id_size=2)
_FRAME = b"\0\0\0\0\0\1\0\0"
COUNT_ALONE, COUNT_MANY = 5_000, 200_000
HOT_KEYS = 100

Figures = dict[str, float]
Load = Callable[[int, int], Timing]
"""So many outstanding, so many requests."""


def measure(
    values: Sequence[bytes], rounds: int, tell: Callable[[str], None]
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Medians by server, and the missing ones."""
    found: dict[str, list[Figures]] = {}
    missing: dict[str, str] = {}
    for number in range(rounds):
        for name, serving in SERVERS.items():
            tell(f"one node: {name}, round {number + 1} of {rounds}")
            try:
                with Lab("peers") as lab:
                    found.setdefault(name, []).append(serving(lab, values))
            except PeerMissing as why:
                missing[name] = str(why)
                found.pop(name, None)
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    return medians, missing


def _loaded(load: Load, pid: int) -> Figures:
    alone, begun = load(ALONE, COUNT_ALONE), cpu_seconds([pid])
    many, spent = load(MANY, COUNT_MANY), cpu_seconds([pid]) - begun
    if alone.failed or many.failed:
        raise PeerMissing(f"{alone.failed + many.failed} wrong answers")
    return {
        "p50_us": 1e3 * alone.p50,
        "p99_us": 1e3 * alone.p99,
        "per_second": many.done / many.seconds,
        "many_p50_us": 1e3 * many.p50,
        "cpu_us": 1e6 * spent / many.done,
    }


def _cores() -> tuple[int, int]:
    """The load's, and the server's."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _pin(pid: int) -> None:
    """Every thread of a process onto the server's processor."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {_cores()[1]})


@contextmanager
def _serving(host: Host, command: Sequence[str | Path], port: int, tcp: bool = False) -> Iterator[int]:
    """A program that listens at a port of a host. Gives its process."""
    process = host.popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _pin(process.pid)
    try:
        wait_until(lambda: _listens(host, port, tcp), f"{command[0]} to listen at {port}", 10)
        _pin(process.pid)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _listens(host: Host, port: int, tcp: bool) -> bool:
    with host.enter():
        text = Path(f"/proc/thread-self/net/{'tcp' if tcp else 'udp'}").read_text()
    return f":{port:04X} " in text


def echo(lab: Lab, values: Sequence[bytes]) -> Figures:
    """Datagrams of a GET's size, sent back unread."""
    server, client = _two(lab)
    requests = _gets(values, bytes(8))
    with _serving(server, [program("udp_echo"), str(PORT)], PORT) as pid:
        return _loaded(_load(client, requests, [], kdht_cluster.PROTOCOL), pid)


def memcached(lab: Lab, values: Sequence[bytes]) -> Figures:
    """One thread, over UDP."""
    binary = _found("memcached")
    server, client = _two(lab)
    port = 11211
    command = [binary, "-u", "nobody", "-l", SERVER, "-p", str(port), "-U", str(port), "-t", "1", "-m", "256"]
    with _serving(server, command, port, tcp=True) as pid:
        with client.enter(), socket.create_connection((SERVER, port)) as sock, sock.makefile("rb") as answers:
            for number, value in enumerate(values):
                sock.sendall(b"set key-%07d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
                if answers.readline() != b"STORED\r\n":
                    raise PeerMissing("memcached stores nothing")
        requests = [_FRAME + b"get key-%07d\r\n" % number for number in range(len(values))]
        return _loaded(_load(client, requests, values, MEMCACHED), pid)


def redis(lab: Lab, values: Sequence[bytes]) -> Figures:
    """Over TCP, not pipelined, by its own benchmark program."""
    binary, own = _found("redis-server"), _found("redis-benchmark")
    server, client = _two(lab)
    port = 6379
    command = [binary, "--bind", SERVER, "--port", str(port), "--save", "", "--protected-mode", "no"]
    with _serving(server, command, port, tcp=True):

        def run(connections: int, count: int) -> dict[str, str]:
            done = client.run(
                ["taskset", "-c", str(_cores()[0]), own, "-h", SERVER, "-p", str(port), "-t", "set,get", "--csv",
                 "-c", str(connections), "-n", str(count), "-d", str(len(values[0])), "-r", str(len(values))]
            )  # fmt: skip
            return redis_row(done.stdout)

        alone, many = run(ALONE, COUNT_ALONE), run(MANY, COUNT_MANY // 2)
    return {
        "p50_us": 1e3 * float(alone["p50_latency_ms"]),
        "p99_us": 1e3 * float(alone["p99_latency_ms"]),
        "per_second": float(many["rps"]),
        "many_p50_us": 1e3 * float(many["p50_latency_ms"]),
    }


def redis_row(text: str) -> dict[str, str]:
    """The line of GET in what redis-benchmark prints as CSV."""
    start = text.index('"test"')
    return next(row for row in csv.DictReader(text[start:].splitlines()) if row["test"] == "GET")


def kdht(
    lab: Lab, values: Sequence[bytes], cache: int = 16, datapath: str = "socket", warm: int = 2
) -> Figures:
    """`warm`: how often each key is read before."""
    places = places_in(lab, 1)
    client = lab.host("client", ipv4=f"{CLIENT}/24")
    if datapath == "ebpf":
        lab.let_xdp_send()
    settings: dict[str, Any] = {"storage": {"cache": cache}}
    with (
        tempfile.TemporaryDirectory(prefix="kdht-peers.") as directory,
        Cluster(places, Path(directory), datapath=datapath, settings=settings) as cluster,
    ):
        _pin(cluster.nodes[0].pid)
        with client.enter():
            cookie = kdht_cluster.cookie(f"{SERVER}:{PORT}")
        puts = [
            kdht_cluster.put_request(kdht_cluster.key_of(number), value, cookie)
            for number, value in enumerate(values)
        ]
        _load(client, puts, [], kdht_cluster.PROTOCOL)(MANY, len(puts))
        load = _load(client, _gets(values, cookie), values, kdht_cluster.PROTOCOL)
        load(MANY, warm * len(values))
        if datapath == "ebpf":
            wait_until(lambda: _is_hot(cluster, load, 10 * len(values)), "the interface to answer", 60)
        before, figures = _at_interface(cluster), _loaded(load, cluster.nodes[0].pid)
        count = _at_interface(cluster) - before
        # Not all: the lease ends if a busy machine keeps the daemon waiting for half a second.
        if datapath == "ebpf" and count < 0.9 * (COUNT_ALONE + COUNT_MANY):
            raise PeerMissing(f"the interface answered only {count} GETs")
        return figures


def _at_interface(cluster: Cluster) -> int:
    """GETs that the XDP program has answered."""
    return int(cluster.nodes[0].stats()["packets"].get("ebpf", {}).get(Reason.ANSWERED.name, 0))


def _is_hot(cluster: Cluster, load: Load, count: int) -> bool:
    before = _at_interface(cluster)
    load(MANY, count)
    return _at_interface(cluster) - before >= 0.99 * count


def kdht_at_interface(lab: Lab, values: Sequence[bytes]) -> Figures:
    return kdht(lab, values[:HOT_KEYS], datapath="ebpf", warm=50)


def kdht_cold(lab: Lab, values: Sequence[bytes]) -> Figures:
    return kdht(lab, values, cache=0)


SERVERS: dict[str, Callable[[Lab, Sequence[bytes]], Figures]] = {
    "echo, C, in batches": echo,
    "kdht": kdht,
    "kdht, at the interface": kdht_at_interface,
    "kdht, without hot records": kdht_cold,
    "memcached over UDP": memcached,
    "Redis over TCP": redis,
}


def _two(lab: Lab) -> tuple[Host, Host]:
    return lab.host("n1", ipv4=f"{SERVER}/24"), lab.host("client", ipv4=f"{CLIENT}/24")


def _gets(values: Sequence[bytes], cookie: bytes) -> list[bytes]:
    return [kdht_cluster.get_request(kdht_cluster.key_of(n), cookie) for n in range(len(values))]


def _load(client: Host, requests: Sequence[bytes], answers: Sequence[bytes], protocol: Protocol) -> Load:
    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    shuffled = [requests[n] for n in order], [answers[n] for n in order] if answers else []
    port = PORT if protocol is not MEMCACHED else 11211

    def load(outstanding: int, count: int) -> Timing:
        with client.enter():
            return ask([f"{SERVER}:{port}"], *shuffled, protocol, outstanding, count, cpu=_cores()[0])

    return load


def _found(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if path is None:
        raise PeerMissing(f"{name} is not installed")
    return path
