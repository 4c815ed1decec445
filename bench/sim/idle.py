"""What a cluster costs that nobody asks anything: packets a second of each node, by op."""

import time
from collections.abc import Callable
from random import Random
from typing import Any

from bench.sim.clusters import grown
from bench.sim.figures import peak_mib
from bench.sim.load import Load
from bench.sim.meters import Traffic, Truth, look_up
from kdht.node.replicas import Policy

LOOKUPS = 200
SETTLED = 30.0
"""Seconds after the values were put."""


def run(
    nodes: int,
    rest: float,
    window: float,
    seed: int,
    values: int,
    loss: float = 0.0,
    progress: Callable[[int], None] = lambda joined: None,
) -> dict[str, Any]:
    """Let `nodes` join and `rest` seconds pass, then count for `window` seconds. Virtual seconds.

    They keep `values` values, three times each, and compare what they keep; with 0 they only route.
    """
    begun = time.perf_counter()
    policy = Policy() if values else None
    cluster = grown(nodes, seed, rest, loss=loss, policy=policy, progress=progress)
    if values:
        Load(cluster, Random(f"load {seed}"), values).fill()
        cluster.run(SETTLED)
    traffic = Traffic(cluster)
    cluster.run(window)
    rng = Random(f"idle {seed}")
    members = cluster.members
    ends = look_up(cluster, members, LOOKUPS, rng)
    return {
        "nodes": nodes,
        "seed": seed,
        "values": values,
        "loss": loss,
        "rest_seconds": rest,
        "window_seconds": window,
        "traffic": traffic.figures(members, nodes * window),
        "contacts": sum(len(member.node.table) for member in members) / nodes,
        "tables": Truth(members).accuracy(rng.sample(members, min(nodes, 50))),
        "lookups_right": ends["right"] / LOOKUPS,
        "seconds": time.perf_counter() - begun,
        "peak_mib": peak_mib(),
    }
