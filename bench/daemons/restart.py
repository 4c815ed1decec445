"""All nodes die and are started again at once: the time until they are ready, and their traffic."""

import asyncio
import time
from typing import Any

from bench.daemons import requests
from bench.daemons.clusters import Built, running, wait_records
from bench.daemons.meters import Curve, rates
from bench.sim.figures import spread
from kdht import AsyncClient
from kdht.lab.cluster import LabNode

REPLICAS = 3
CLIENTS = 8
WINDOW = 8
"""Writes at once of each client."""
STEP = 1.0


def run(
    *, nodes: int, records: int, rest: float, window: float, after: float, datapath: str
) -> dict[str, Any]:
    """`records` on each node, about. Idle traffic is counted for `window` seconds, that after the restart for `after`."""
    values = nodes * records // REPLICAS
    with running(nodes, REPLICAS, datapath) as built:
        begun = time.monotonic()
        with built.client.enter():
            asyncio.run(_fill(built, values))
        filled = time.monotonic() - begun
        wait_records(built.nodes, REPLICAS * values)
        time.sleep(rest)
        idle = rates(built.nodes, window)
        ready: dict[str, float] = {}
        curve = _restarted(built, after, ready)
        with built.client.enter():
            read = asyncio.run(_read(built, values))
    return {
        "nodes": nodes,
        "values": values,
        "fill_seconds": filled,
        "idle": spread([rate["sent"] + rate["received"] for rate in idle]),
        "ready": len(ready),
        "ready_seconds": spread(list(ready.values())),
        "curve": curve,
        "read_right": len(read.seconds) - len(read.wrong),
    }


def _restarted(built: Built, after: float, ready: dict[str, float]) -> list[dict[str, float]]:
    """The curve from the start of the first; each node's time until it was ready goes into `ready`."""
    for node in built.nodes:
        node.kill()
    curve = Curve(built.nodes, STEP)
    for node in built.nodes:
        node.start()
    waiting: list[LabNode] = list(built.nodes)

    def look(seconds: float) -> None:
        for node in list(waiting):
            if node.ready(0):
                ready[node.name] = seconds
                waiting.remove(node)

    curve.take(after, look)
    return curve.points


async def _fill(built: Built, values: int) -> None:
    """Through several nodes at once."""
    keys = requests.names(values)

    async def part(number: int) -> None:
        async with AsyncClient(str(built.nodes[number].address)) as client:
            await requests.fill(client, keys[number::CLIENTS], WINDOW)

    await asyncio.gather(*(part(number) for number in range(CLIENTS)))


async def _read(built: Built, values: int) -> requests.Outcome:
    """Some of them, spread over all."""
    async with AsyncClient([str(node.address) for node in built.nodes]) as client:
        return await requests.gets(client, requests.names(values)[:: max(1, values // 1000)], 32)
