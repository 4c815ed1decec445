"""Nodes join while clients work: is a stored value ever reported missing, or overwritten as missing?

"together": all newcomers start at once. "replace": each old node is replaced, one after the other: a newcomer starts, and once it is ready
the old node gives its records away and ends. Meanwhile so many operations a second, half of them reads of stored
values, half `put(if_version=0)` of them, which must raise Conflict.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.daemons import requests
from bench.daemons.clusters import CLIENT, SETTLED, Built, wait_records
from bench.sim.figures import spread
from kdht import AsyncClient
from kdht.errors import Conflict, KdhtError, NotFound
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.neighbours import introduce
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

HOW = ("together", "replace")
BEFORE = AFTER = 3.0
"""Seconds of work before the first newcomer starts, and after the last one is ready."""


class Plan(NamedTuple):
    how: str
    old: int
    new: int
    values: int
    rate: float
    replicas: int
    seed: int
    datapath: str


def run(plan: Plan) -> dict[str, Any]:
    """One cluster. Seconds until each newcomer was ready, and the outcomes of the operations."""
    with tempfile.TemporaryDirectory(prefix="kdht-bench-") as directory, Lab("bench") as lab:
        places = places_in(lab, plan.old + plan.new)
        client = lab.host("client", ipv4=CLIENT)
        introduce(lab)
        settings = {"replication": {"replicas": plan.replicas}}
        cluster = Cluster(places, Path(directory), datapath=plan.datapath, settings=settings)
        new = cluster.nodes[plan.old :]
        del cluster.nodes[plan.old :]
        with cluster:
            built = Built(cluster, client)
            with client.enter():
                outcomes, ready = asyncio.run(_measure(built, new, plan))
    return {
        **plan._asdict(),
        "outcomes": dict(outcomes),
        "false_not_found": outcomes["get not found"],
        "overwritten": outcomes["create done"],
        "ready_seconds": spread(ready),
    }


async def _measure(built: Built, new: Sequence[LabNode], plan: Plan) -> tuple[Counter[str], list[float]]:
    keys = requests.names(plan.values)
    # Before any change of the cluster: these nodes are asked until the end, or until they are replaced.
    async with AsyncClient([str(node.address) for node in [*built.nodes, *new]]) as client:
        await requests.fill(client, keys)
        await asyncio.to_thread(wait_records, built.nodes, min(plan.replicas, plan.old) * plan.values)
        ended = asyncio.Event()
        work = asyncio.create_task(_work(client, keys, plan, ended))
        await asyncio.sleep(BEFORE)
        change = _together if plan.how == "together" else _replace
        ready = await asyncio.to_thread(change, built, new)
        await asyncio.sleep(AFTER)
        ended.set()
        return await work, ready


async def _work(client: AsyncClient, keys: Sequence[str], plan: Plan, ended: asyncio.Event) -> Counter[str]:
    """At a steady rate, whatever the answers."""
    rng = random.Random(f"joins {plan.seed}")
    outcomes: Counter[str] = Counter()
    running: set[asyncio.Task[None]] = set()
    begun, started = time.monotonic(), 0
    while not ended.is_set():
        for _ in range(round((time.monotonic() - begun) * plan.rate) - started):
            started += 1
            task = asyncio.create_task((_get, _create)[started % 2](client, rng.choice(keys), outcomes))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(1 / plan.rate)
    await asyncio.gather(*running)
    return outcomes


async def _get(client: AsyncClient, key: str, outcomes: Counter[str]) -> None:
    try:
        value = await client.get(key)
        outcomes["get done" if value == requests.value_of(key) else "get wrong"] += 1
    except NotFound:
        outcomes["get not found"] += 1
    except KdhtError as error:
        outcomes[f"get {type(error).__name__}"] += 1


async def _create(client: AsyncClient, key: str, outcomes: Counter[str]) -> None:
    try:
        await client.put(key, requests.value_of(key), if_version=0)
        outcomes["create done"] += 1
    except Conflict:
        outcomes["create conflict"] += 1
    except KdhtError as error:
        outcomes[f"create {type(error).__name__}"] += 1


def _together(built: Built, new: Sequence[LabNode]) -> list[float]:
    begun = {node.name: time.monotonic() for node in new}
    for node in new:
        built.nodes.append(node)
        node.start()
    return [_until_ready(node, begun[node.name]) for node in new]


def _replace(built: Built, new: Sequence[LabNode]) -> list[float]:
    """The first old node is the newcomers' bootstrap, and leaves last."""
    seconds = []
    for leaving, coming in zip(reversed(built.nodes.copy()), new, strict=False):
        built.nodes.append(coming)
        begun = time.monotonic()
        coming.start()
        seconds.append(_until_ready(coming, begun))
        name = leaving.name
        wait_until(lambda node=leaving: node.call("drain")["drained"], f"{name} to give all away", SETTLED)  # type: ignore[misc]
        leaving.stop()
    return seconds


def _until_ready(node: LabNode, begun: float) -> float:
    wait_until(lambda: node.ready(1), f"{node.name} to be ready", SETTLED)
    return time.monotonic() - begun
