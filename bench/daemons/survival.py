"""Some of the nodes die at once: is every value still read, how fast, and how fast are writes confirmed?

The client has worked with the cluster before, knows the nodes that stay, and asks the moment after the
deaths. The host of a dead process answers with ICMP. A dead host is silent. Only keys whose replicas all died may be
missing.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from bench.daemons import requests
from bench.daemons.clusters import Built, running, wait_records
from bench.sim.figures import spread
from kdht import AsyncClient
from kdht.lab import census
from kdht.lab.cluster import LabNode
from kdht.wire import hash_key

HOW = ("process", "host")
WORK = ("get", "put")


def run(
    *,
    nodes: int,
    dying: int,
    values: int,
    replicas: int,
    outstanding: int,
    how: str,
    work: str,
    seed: int,
    datapath: str,
) -> dict[str, Any]:
    """One cluster, one death, one pass over `values` keys. Times in milliseconds."""
    rng = random.Random(f"survival {how} {work} {seed}")
    with running(nodes, replicas, datapath) as built:
        victims = rng.sample(built.nodes, dying)
        lost = _only_on(built, victims, requests.names(values), replicas)
        with built.client.enter():
            outcome = asyncio.run(_work(built, victims, how, work, values, replicas, outstanding))
    return {
        "how": how,
        "work": work,
        "replicas": replicas,
        "nodes": nodes,
        "dying": dying,
        "values": values,
        "outstanding": outstanding,
        "seed": seed,
        "done": len(outcome.seconds) - len(outcome.wrong),
        "wrong": len(outcome.wrong),
        "failed": len(outcome.failed),
        "all_replicas_died": len(lost),
        "failed_are_those": work == "get" and set(outcome.failed) == lost,
        "reasons": sorted(set(outcome.failed.values()))[:5],
        "milliseconds": spread([seconds * 1000 for seconds in outcome.seconds]),
    }


async def _work(
    built: Built,
    victims: Sequence[LabNode],
    how: str,
    work: str,
    values: int,
    replicas: int,
    outstanding: int,
) -> requests.Outcome:
    keys = requests.names(values)
    staying = [node for node in built.nodes if node not in victims]
    async with AsyncClient([str(node.address) for node in staying]) as client:
        await requests.fill(client, keys)
        await asyncio.to_thread(wait_records, built.nodes, replicas * values)
        await requests.gets(client, keys, outstanding)
        await requests.puts(client, keys[: values // 10], outstanding)
        await asyncio.to_thread(die, victims, how)
        if work == "get":
            return await requests.gets(client, keys, outstanding)
        return await requests.puts(client, requests.names(values, "new"), outstanding)


def die(victims: Sequence[LabNode], how: str) -> None:
    """All at once. A host's interface goes down first, so it sends nothing more."""
    if how == "host":
        for victim in victims:
            victim.host.set_link("eth0", up=False)
    for victim in victims:
        victim.kill()


def _only_on(built: Built, victims: Sequence[LabNode], keys: Sequence[str], replicas: int) -> set[str]:
    """The keys with all replicas among the victims."""
    ids = [(each, name) for name, each in built.ids().items()]
    dead = {victim.name for victim in victims}
    return {key for key in keys if dead.issuperset(census.closest(ids, hash_key(key), replicas))}
