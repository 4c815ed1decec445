"""Announcements to sets of three nodes on loopback: processor time of the nodes for each, soft and hard.

    python -m bench.announcements [--count N] [--window N] [--json]

One client, with so many under way at once. No renewals: each is a new member. Run it beside another build's, in turns: the rate
depends on the machine, the processor time less so.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path

import click

from bench.peers.counting import cpu_seconds
from kdht import AsyncClient
from kdht.lab.cluster import Cluster, places_on_loopback

SETS = 50
PATIENCE = 30.0


async def announce(
    nodes: list[str], pids: list[int], count: int, window: int, *, soft: bool
) -> dict[str, float]:
    turns, kind = asyncio.Semaphore(window), b"soft" if soft else b"hard"
    async with AsyncClient(nodes, timeout=PATIENCE) as client:

        async def one(number: int) -> None:
            async with turns:
                payload = b"%s %d" % (kind, number)
                await client.announce_once(f"set {number % SETS}", payload, 3600, soft=soft)

        begin, before = time.monotonic(), cpu_seconds(pids)
        await asyncio.gather(*(one(number) for number in range(count)))
        cpu, seconds = cpu_seconds(pids) - before, time.monotonic() - begin
    return {"cpu_us": round(cpu / count * 1e6), "announcements_s": round(count / seconds)}


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--window", type=click.IntRange(1), default=48, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(count: int, window: int, as_json: bool) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        Cluster(places_on_loopback(3), Path(home), datapath="socket") as cluster,
    ):
        nodes, pids = [str(node.address) for node in cluster.nodes], [node.pid for node in cluster.nodes]
        found = {
            name: asyncio.run(announce(nodes, pids, count, window, soft=soft))
            for name, soft in (("soft", True), ("hard", False))
        }
    if as_json:
        print(json.dumps(found))
        return
    for name, each in found.items():
        print(f"{name}: {each['cpu_us']} µs of the nodes for each, {each['announcements_s']} a second")


if __name__ == "__main__":
    main()
