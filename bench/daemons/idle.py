"""The cost of an idle cluster: datagrams a second of each node."""

import asyncio
import time
from typing import Any

from bench.daemons import requests
from bench.daemons.clusters import running, wait_records
from bench.daemons.meters import rates
from bench.sim.figures import spread
from kdht import AsyncClient

REPLICAS = 3


def run(*, nodes: int, values: int, rest: float, window: float, datapath: str) -> dict[str, Any]:
    """Store `values` values, let `rest` seconds pass, then count for `window` seconds."""
    with running(nodes, REPLICAS, datapath) as built:

        async def fill() -> None:
            async with AsyncClient([str(node.address) for node in built.nodes]) as client:
                await requests.fill(client, requests.names(values))

        with built.client.enter():
            asyncio.run(fill())
        wait_records(built.nodes, REPLICAS * values)
        time.sleep(rest)
        each = rates(built.nodes, window)
    return {
        "nodes": nodes,
        "values": values,
        "rest_seconds": rest,
        "window_seconds": window,
        "sent": spread([rate["sent"] for rate in each]),
        "received": spread([rate["received"] for rate in each]),
    }
