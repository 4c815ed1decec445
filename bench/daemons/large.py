"""A large value in and out of a cluster whose links may lose datagrams: rates, processor time, and the client's memory.

The client is a process of its own, which reads the value from a file and writes it to one. It is patient: on a busy machine
nodes are away for half a second now and then, and confirm nothing until they have compared all records with others.
"""

import filecmp
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from bench.daemons.clusters import running
from bench.peers.counting import cpu_seconds
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until

REPLICAS = 3
TIMEOUT = 1800.0
STEP_BYTES = 1 << 20
SETTLE = 60.0
PATIENCE_S = 300.0

_CLIENT = """
import json, re, sys, time
from kdht import Client

# Not getrusage's: that may be the parent's, from before this program was loaded.
def peak_kib():
    return int(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])

nodes, way, name = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
idle = peak_kib()
began, spent = time.monotonic(), time.process_time()
with Client(nodes, timeout=float(sys.argv[4])) as client:
    if way == "put":
        with open(name, "rb") as source:
            client.put_large("large", source)
    else:
        with open(name, "wb") as target:
            client.get_large("large", into=target)
peak = peak_kib()
print(json.dumps({"seconds": time.monotonic() - began, "cpu": time.process_time() - spent, "idle_mib": idle / 1024,
                  "peak_mib": peak / 1024}))
"""


class Placed(NamedTuple):
    """A ready cluster, and where its client runs."""

    cluster: Cluster
    client: Callable[[], AbstractContextManager[None]]


def run(
    *, nodes: int, mebibytes: int, permille: int, seed: int, datapath: str, loopback: bool
) -> dict[str, Any]:
    """Each node's host loses received datagrams with a chance of `permille` in a thousand; on loopback there is no host."""
    with tempfile.TemporaryDirectory(prefix="kdht-large.") as directory:
        source, target = Path(directory) / "source", Path(directory) / "target"
        chance = random.Random(seed)
        with source.open("wb") as file:
            for _ in range(mebibytes):
                file.write(chance.randbytes(STEP_BYTES))
        with _on_loopback(nodes) if loopback else _in_hosts(nodes, datapath, permille) as placed:
            ways = {"put": source, "get": target}
            found = {way: _go(placed, way, file, mebibytes) for way, file in ways.items()}
        same = filecmp.cmp(source, target, shallow=False)
    plan = {"nodes": nodes, "mebibytes": mebibytes, "lost_permille": permille, "loopback": loopback}
    return {**plan, "ways": found, "same": same}


def _go(placed: Placed, way: str, file: Path, mebibytes: int) -> dict[str, float]:
    """One way, by a client of its own."""
    members = placed.cluster.nodes
    addresses = ",".join(str(node.address) for node in members)
    before = cpu_seconds(node.pid for node in members)
    with placed.client():
        command = [sys.executable, "-c", _CLIENT, addresses, way, str(file), str(PATIENCE_S)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT)
    said = json.loads(done.stdout)
    spent = cpu_seconds(node.pid for node in members) - before
    return {
        "mib_per_second": mebibytes / said["seconds"],
        "client_cpu_ms_a_mib": 1000 * said["cpu"] / mebibytes,
        "nodes_cpu_ms_a_mib": 1000 * spent / mebibytes,
        "client_idle_mib": said["idle_mib"],
        "client_peak_mib": said["peak_mib"],
    }


@contextmanager
def _in_hosts(nodes: int, datapath: str, permille: int) -> Iterator[Placed]:
    with running(nodes, REPLICAS, datapath) as built:
        for node in built.nodes:
            node.host.lose(permille)
        yield Placed(built.cluster, built.client.enter)


@contextmanager
def _on_loopback(nodes: int) -> Iterator[Placed]:
    with (
        tempfile.TemporaryDirectory(prefix="kdht-large.") as directory,
        Cluster(places_on_loopback(nodes), Path(directory), datapath="socket", ids=spread(nodes)) as cluster,
    ):
        for node in cluster.nodes:
            wait_until(lambda node=node: node.status()["ready"], f"{node.name} to be ready", SETTLE)  # type: ignore[misc]
        yield Placed(cluster, nullcontext)
