"""A large value in and out of a cluster whose links lose datagrams."""

import asyncio
import random
import time
from typing import Any

from bench.daemons.clusters import Built, running
from kdht import AsyncClient

REPLICAS = 3


def run(*, nodes: int, mebibytes: int, permille: int, seed: int, datapath: str) -> dict[str, Any]:
    """Each node's host loses received datagrams with a chance of `permille` in a thousand."""
    value = random.Random(seed).randbytes(mebibytes << 20)
    with running(nodes, REPLICAS, datapath) as built:
        for node in built.nodes:
            node.host.lose(permille)
        with built.client.enter():
            put, get, same = asyncio.run(_in_and_out(built, value))
    return {
        "nodes": nodes,
        "mebibytes": mebibytes,
        "lost_permille": permille,
        "put_seconds": put,
        "get_seconds": get,
        "same": same,
    }


async def _in_and_out(built: Built, value: bytes) -> tuple[float, float, bool]:
    async with AsyncClient([str(node.address) for node in built.nodes]) as client:
        began = time.monotonic()
        await client.put_large("large", value)
        stored = time.monotonic()
        same = await client.get_large("large") == value
        return stored - began, time.monotonic() - stored, same
