"""Load for cluster tests: values that can be checked, gets through every node at once."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

from kdht import AsyncClient
from kdht.errors import RequestError
from kdht.lab.cluster import Cluster

WINDOW = 16
"""Requests at once through each node."""


class Outcome(NamedTuple):
    right: int
    wrong: list[str]
    """Keys whose answer was another than what was put."""
    lost: list[str]
    """One line for each get that ended in an exception."""


def value_of(key: str) -> bytes:
    """100 to 900 bytes that belong to this key alone."""
    digest = hashlib.blake2b(key.encode()).digest()
    return (digest * 15)[: 100 + digest[0] * 800 // 255]


def keys(count: int) -> list[str]:
    return [f"key {number}" for number in range(count)]


async def put_all(cluster: Cluster, names: Sequence[str]) -> None:
    """Store every key's value; raises the first failure."""
    async with AsyncClient([str(node.address) for node in cluster.nodes]) as client:
        await client.put_many({name: value_of(name) for name in names}, window=WINDOW)


async def get_all(cluster: Cluster, names: Sequence[str], gets: int, *, direct: bool = False) -> Outcome:
    """`gets` gets of the keys in turn, spread over all nodes, each answer checked."""
    wrong: list[str] = []
    lost: list[str] = []
    numbers = iter(range(gets))

    async def worker(client: AsyncClient) -> None:
        for number in numbers:
            name = names[number * 7919 % len(names)]
            try:
                if await client.get(name) != value_of(name):
                    wrong.append(name)
            except RequestError as error:
                lost.append(f"{name}: {error!r}")

    clients = [AsyncClient(str(node.address), direct=direct) for node in cluster.nodes]
    try:
        await asyncio.gather(*(worker(client) for client in clients for _ in range(WINDOW)))
    finally:
        for client in clients:
            await client.close()
    return Outcome(gets - len(wrong) - len(lost), wrong, lost)


def relayed(cluster: Cluster) -> int:
    """Answers that entry nodes passed on to their clients so far, in all lanes of all nodes."""
    packets = [node.stats()["packets"] for node in cluster.nodes]
    return sum(lane["RELAYED"] for each in packets for lane in each.values())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
