"""A large value in and out of a cluster whose links lose datagrams."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.daemons.clusters import Built, running
from bench.peers.counting import cpu_seconds
from kdht import AsyncClient

REPLICAS = 3


class Cost(NamedTuple):
    """Seconds, and milliseconds of processor time of the client and of all nodes."""

    seconds: float
    client_ms: float
    nodes_ms: float

    def since(self, before: "Cost") -> "Cost":
        return Cost(*(late - early for late, early in zip(self, before, strict=True)))


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
        "put_seconds": put.seconds,
        "get_seconds": get.seconds,
        "client_cpu_ms_a_mib": {"put": put.client_ms / mebibytes, "get": get.client_ms / mebibytes},
        "nodes_cpu_ms_a_mib": {"put": put.nodes_ms / mebibytes, "get": get.nodes_ms / mebibytes},
        "same": same,
    }


async def _in_and_out(built: Built, value: bytes) -> tuple[Cost, Cost, bool]:
    pids = [node.pid for node in built.nodes]
    async with AsyncClient([str(node.address) for node in built.nodes]) as client:
        began = _spent(pids)
        await client.put_large("large", value)
        stored = _spent(pids)
        same = await client.get_large("large") == value
        return stored.since(began), _spent(pids).since(stored), same


def _spent(pids: Sequence[int]) -> Cost:
    return Cost(time.monotonic(), 1000 * time.process_time(), 1000 * cpu_seconds(pids))
