"""The UDP tracker: connects, announces and scrapes a second, beside opentracker.

    python -m bench.tracker [--rounds 3] [--requests 4000] [--json]

It is left out where it is missing (Debian: apt-get install opentracker). One client on loopback, 32 requests
outstanding; 200 swarms. An announce that is new is a write: kdht syncs it to the disks of three nodes if there are
three, opentracker keeps it in memory. One that repeats another is a read for both.
"""

import json
import os
import random
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from bench.peers.asking import Protocol, ask
from bench.peers.base import Timing
from kdht.lab.cluster import Cluster, Place, Settings, places_on_loopback
from kdht.lab.wait import wait_until

PORT = 16999
OUTSTANDING = 32
SWARMS = 200
BEP_15 = Protocol(id_at=12, id_size=4, answer_id_at=4)
CONNECT = struct.Struct(">QII")
ANNOUNCE = struct.Struct(">QII20s20sQQQIIIIH")
NONE, STARTED = 0, 2
EVERY = 0xFFFFFFFF

Targets = list[str]


class Load(NamedTuple):
    """Requests by kind, all of one length each."""

    connect: list[bytes]
    announce: list[bytes]
    again: list[bytes]
    """The same announces, without an event."""
    scrape: list[bytes]


def hashes() -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(20) for _ in range(SWARMS)]


def load(connection: int, count: int, seed: int) -> Load:
    """`seed`: each round has peers of its own."""
    rng, swarms = random.Random(seed), hashes()
    peers = [
        (rng.choice(swarms), rng.randbytes(20), rng.randrange(2), rng.randrange(1024, 65536))
        for _ in range(count)
    ]

    def announce(event: int) -> list[bytes]:
        return [
            ANNOUNCE.pack(connection, 1, 0, swarm, peer_id, 0, left, 0, event, 0, 0, EVERY, port)
            for swarm, peer_id, left, port in peers
        ]

    scrape = [CONNECT.pack(connection, 2, 0) + swarm for swarm, *_ in peers]
    return Load([CONNECT.pack(0x41727101980, 0, 0)] * count, announce(STARTED), announce(NONE), scrape)


def connected(targets: Targets) -> int:
    """A connection ID for this host."""
    host, port = targets[0].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((host, int(port)))
        sock.send(CONNECT.pack(0x41727101980, 0, 1))
        return int.from_bytes(sock.recv(16)[8:], "big")


@contextmanager
def kdht(nodes: int) -> Iterator[Targets]:
    def tables(place: Place) -> Settings:
        return {"tracker": {"listen": [f"{place.addresses[0].host}:{PORT}"], "rate": 0}}

    with (
        tempfile.TemporaryDirectory(prefix="kdht-bench.") as directory,
        Cluster(places_on_loopback(nodes), Path(directory), datapath="socket", each=tables) as cluster,
    ):
        for node in cluster.nodes:
            wait_until(lambda node=node: node.status()["faces"][0]["up"], "the tracker")  # type: ignore[misc]
        yield [f"{node.address.host}:{PORT}" for node in cluster.nodes]


@contextmanager
def opentracker() -> Iterator[Targets]:
    with tempfile.TemporaryDirectory(prefix="opentracker.") as directory:
        # Debian's serves listed info-hashes alone.
        allowed = Path(directory) / "allowed"
        allowed.write_text("".join(f"{each.hex()}\n" for each in hashes()))
        os.chmod(directory, 0o755)
        at = ["-i", "127.0.0.1", "-p", str(PORT), "-P", str(PORT)]
        process = subprocess.Popen(
            ["opentracker", *at, "-d", directory, "-w", "allowed"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
        )
        try:
            targets = [f"127.0.0.1:{PORT}"]
            wait_until(lambda: _answers(targets), "opentracker")
            yield targets
        finally:
            process.kill()
            process.wait()


def _answers(targets: Targets) -> bool:
    try:
        return bool(connected(targets))
    except OSError:
        return False


SYSTEMS: dict[str, Callable[[], Any]] = {
    "kdht, 1 node": lambda: kdht(1),
    "kdht, 3 nodes, 3 replicas": lambda: kdht(3),
    **({"opentracker": opentracker} if which("opentracker") else {}),
}


def measure(targets: Targets, count: int, seed: int) -> dict[str, Timing]:
    """One round with one system."""
    made = load(connected(targets), count, seed)
    return {
        kind: ask(targets, requests, [], BEP_15, OUTSTANDING) for kind, requests in made._asdict().items()
    }


def measured(rounds: int, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """By system and kind: medians of interleaved rounds."""
    seen: dict[str, list[dict[str, Timing]]] = {name: [] for name in SYSTEMS}
    for number in range(rounds):
        for name, system in SYSTEMS.items():
            with system() as targets:
                seen[name].append(measure(targets, count, number))
    return {
        name: {kind: _middle([each[kind] for each in found]) for kind in Load._fields}
        for name, found in seen.items()
    }


def _middle(timings: Sequence[Timing]) -> dict[str, float]:
    return {
        "per_second": median(timing.done / timing.seconds for timing in timings),
        "p50_ms": median(timing.p50 for timing in timings),
        "p99_ms": median(timing.p99 for timing in timings),
        "failed": sum(timing.failed for timing in timings),
    }


def draw(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    table = Table("", *(f"{kind}/s (p50 ms)" for kind in Load._fields), "failed")
    for name, by_kind in found.items():
        cells = [f"{each['per_second']:,.0f} ({each['p50_ms']:.2f})" for each in by_kind.values()]
        table.add_row(name, *cells, f"{sum(each['failed'] for each in by_kind.values()):.0f}")
    Console().print(table)


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="Interleaved; medians are shown.")
@click.option("--requests", default=4000, show_default=True, help="Of each kind, in each round.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def main(rounds: int, requests: int, as_json: bool) -> None:
    found = measured(rounds, requests)
    if as_json:
        click.echo(json.dumps({"machine": machine(), "systems": found}, indent=2))
    else:
        draw(found)


if __name__ == "__main__":
    main()
