"""kdht's cost with growing work: nodes, bytes of a value, keys.

    python -m bench scaling [--nodes 1,2,...] [--sizes 16,...] [--keys 1000,...] [--quick] [--json]

Real daemons on loopback, asked by the C load (bench/peers). Nodes: clusters of 100-byte values. Sizes: a
cluster of 8. Keys: one node whose store was filled before its start, each key read once, in random order, so
that few are hot; with its memory and the time that it took to start.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.peers import table
from bench.peers.asking import ask
from bench.peers.base import make_values
from bench.peers.counting import cpu_seconds, datagrams, pss_mib
from bench.peers.kdht_cluster import PROTOCOL, Asked, Kdht, get_request, key_of
from bench.peers.sites import Loopback
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.storage import LevelStore, StoredRecord, Write

NODES, SIZES, KEYS = "1,2,4,8,16,32", "16,64,100,256,512,1024", "1000,10000,100000,1000000"
OUTSTANDING = 32
SIZE = 100
MOST_READ = 50_000
FILLED_AT_ONCE = 1000
DIFFERENT = 1000
"""Different values in a filled store. Its keys share them."""

Row = dict[str, float]


def numbers(_: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not numbers with commas between", param=option) from None


def cluster(nodes: int, size: int, count: int) -> Row:
    """One cluster, written to and read from."""
    values = make_values(count, size)
    order = list(range(count))
    random.Random(1).shuffle(order)
    with (
        tempfile.TemporaryDirectory(prefix="kdht-scaling.") as directory,
        Kdht().cluster(Loopback(nodes), values, Path(directory)) as running,
    ):
        put = running.put(range(count), OUTSTANDING)
        running.get(order, OUTSTANDING)
        alone = running.get(order[:500], 1)
        packets, cpu = datagrams(), cpu_seconds(running.pids())
        many = running.get(order * 10, OUTSTANDING)
        cpu = cpu_seconds(running.pids()) - cpu + many.client_cpu
        return {
            "nodes": nodes,
            "size": size,
            "get_per_second": many.done / many.seconds,
            "get_alone_p50_ms": alone.p50,
            "get_cpu_us": 1e6 * cpu / many.done,
            "get_packets": (datagrams() - packets) / many.done,
            "put_per_second": put.done / put.seconds,
            "put_p50_ms": put.p50,
            "failed": put.failed + alone.failed + many.failed,
        }


@contextmanager
def filled(keys: int) -> Iterator[Cluster]:
    """A cluster of one, not started yet, whose store has so many keys."""
    values = make_values(DIFFERENT, SIZE)
    with tempfile.TemporaryDirectory(prefix="kdht-scaling.") as directory:
        one = Cluster(places_on_loopback(1), Path(directory), datapath="socket")
        records = one.nodes[0].records
        records.parent.mkdir(parents=True)
        store = LevelStore(records)
        now = time.time()
        for first in range(0, keys, FILLED_AT_ONCE):
            batch = range(first, min(first + FILLED_AT_ONCE, keys))
            version = int(now * 1e6)
            store.apply(
                [Write(key_of(n), StoredRecord(version, 0, 0, values[n % DIFFERENT])) for n in batch], now
            )
        store.close()
        yield one


def store(keys: int) -> Row:
    """One node with so many keys."""
    values = make_values(DIFFERENT, SIZE)
    with filled(keys) as one:
        begun = time.perf_counter()
        with one:
            started = time.perf_counter() - begun
            node = one.nodes[0]
            idle = pss_mib(node.pid)
            asked = Asked(one, values)
            read = random.Random(1).sample(range(keys), min(keys, MOST_READ))
            requests = [get_request(key_of(n), asked.cookie) for n in read]
            answers = [values[n % DIFFERENT] for n in read]
            many = ask([str(node.address)], requests, answers, PROTOCOL, OUTSTANDING)
            return {
                "keys": keys,
                "start_seconds": started,
                "pss_mib": idle,
                "pss_after_reads_mib": pss_mib(node.pid),
                "get_per_second": many.done / many.seconds,
                "get_p50_ms": many.p50,
                "failed": many.failed,
            }


def measure(
    nodes: list[int], sizes: list[int], keys: list[int], tell: Callable[[str], None]
) -> dict[str, Any]:
    found: dict[str, list[Row]] = {"nodes": [], "sizes": [], "keys": []}
    for count in nodes:
        tell(f"{count} nodes")
        found["nodes"].append(cluster(count, SIZE, 2000))
    for size in sizes:
        tell(f"values of {size} bytes")
        found["sizes"].append(cluster(8, size, 2000))
    for count in keys:
        tell(f"{count} keys")
        found["keys"].append(store(count))
    return found


def report(found: dict[str, Any]) -> str:
    """As Markdown."""
    parts = []
    for name, rows in found.items():
        if rows:
            cells = [
                [f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in row.values()]
                for row in rows
            ]
            parts += [f"### As {name} grow", table.markdown(list(rows[0]), cells)]
    return "\n\n".join(parts) + "\n"


@click.command(help=__doc__)
@click.option("--nodes", default=NODES, show_default=True, callback=numbers)
@click.option("--sizes", default=SIZES, show_default=True, callback=numbers)
@click.option("--keys", default=KEYS, show_default=True, callback=numbers)
@click.option("--quick", is_flag=True, help="The ends and one between.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(nodes: list[int], sizes: list[int], keys: list[int], quick: bool, as_json: bool) -> None:
    if quick:
        nodes, sizes, keys = [1, 8, 32], [16, 1024], [1000, 100_000]
    found = measure(nodes, sizes, keys, lambda text: click.secho(text, dim=True, err=True))
    print(json.dumps(found, indent=2) if as_json else report(found))


if __name__ == "__main__":
    main()
