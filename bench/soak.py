"""Full load for a long time: does a node's memory grow, does it get slower?

    python -m bench.soak [--minutes 60] [--nodes 3] [--keys 20000]

Real daemons on loopback. The C load writes and reads all keys in turn, with 64 outstanding, over and over; after each
round the memory of each node (RSS and PSS) and the rates are noted. The curve goes to bench/results/soak.json
and soak.svg as it grows, so that an end at any time loses nothing. The verdict leaves out the first fifth, in which caches fill.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from bench.machine import RESULTS, machine
from bench.peers.base import make_values
from bench.peers.counting import pss_mib, rss_mib
from bench.peers.kdht_cluster import Asked
from kdht.lab.cluster import Cluster, places_on_loopback

OUTSTANDING = 64
SIZE = 100
READS = 10
"""Each key is read so often for each time that it is written."""
WARM = 0.2

Point = dict[str, float]


def soak(minutes: float, nodes: int, keys: int, path: Path) -> dict[str, Any]:
    """Run, keep what was seen at `path`; what was kept last."""
    values = make_values(keys, SIZE)
    order = list(range(keys))
    random.Random(1).shuffle(order)
    points: list[Point] = []
    kept: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="kdht-soak.") as directory,
        Cluster(places_on_loopback(nodes), Path(directory), datapath="socket") as cluster,
    ):
        begun = time.monotonic()
        while time.monotonic() - begun < 60 * minutes:
            asked = Asked(cluster, values)  # a new cookie: they end
            put = asked.put(order, OUTSTANDING)
            get = asked.get(order * READS, OUTSTANDING)
            points.append(
                {
                    "seconds": time.monotonic() - begun,
                    "puts_per_second": put.done / put.seconds,
                    "gets_per_second": get.done / get.seconds,
                    "failed": put.failed + get.failed,
                    "rss_mib": max(rss_mib(pid) for pid in asked.pids()),
                    "pss_mib": max(pss_mib(pid) for pid in asked.pids()),
                }
            )
            kept = {"nodes": nodes, "keys": keys, "machine": machine(), "points": points}
            kept["growth_mib_per_hour"] = growth(points)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept, indent=2) + "\n")
            _tell(points[-1])
    return kept


def growth(points: list[Point]) -> float | None:
    """The slope of the greatest RSS after the warm part, MiB an hour, by least squares; None of too few."""
    late = points[int(WARM * len(points)) :]
    if len(late) < 3:
        return None
    times = [point["seconds"] / 3600 for point in late]
    sizes = [point["rss_mib"] for point in late]
    mid_time, mid_size = sum(times) / len(late), sum(sizes) / len(late)
    spread = sum((t - mid_time) ** 2 for t in times)
    return sum((t - mid_time) * (s - mid_size) for t, s in zip(times, sizes, strict=True)) / spread


def _tell(point: Point) -> None:
    click.echo(
        f"{point['seconds']:6.0f} s  {point['puts_per_second']:8,.0f} puts/s  {point['gets_per_second']:8,.0f} gets/s  "
        f"RSS {point['rss_mib']:.1f} MiB  PSS {point['pss_mib']:.1f} MiB  failed {point['failed']:.0f}"
    )


@click.command(help=__doc__)
@click.option("--minutes", default=60.0, show_default=True, help="How long.")
@click.option("--nodes", default=3, show_default=True, help="Daemons.")
@click.option(
    "--keys", default=20_000, show_default=True, help="Values of 100 bytes, written again and again."
)
def main(minutes: float, nodes: int, keys: int) -> None:
    kept = soak(minutes, nodes, keys, RESULTS / "soak.json")
    from bench.plots import draw

    for path in draw(RESULTS):
        click.echo(path)
    slope = kept.get("growth_mib_per_hour")
    click.echo(
        "too short to say whether it grows" if slope is None else f"RSS grows by {slope:.2f} MiB an hour"
    )


if __name__ == "__main__":
    main()
