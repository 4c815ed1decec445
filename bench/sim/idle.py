"""The cost of an idle cluster: packets a second of each node, by op."""

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from bench.sim.clusters import grown, join
from bench.sim.crowd import Crowd
from bench.sim.figures import peak_mib
from bench.sim.load import Load
from bench.sim.meters import Traffic, Truth, look_up
from kdht.lab.virtual import VirtualCluster
from kdht.lab.virtual.cluster import contact_of
from kdht.node.replicas import Policy
from kdht.wire import Contact

LOOKUPS = 200
MOST_LIVE, SAMPLE = 1000, 20
"""Nodes that all run; of more than that, how many do."""
SETTLED = 30.0
"""Seconds after the values were put."""


def run(
    nodes: int,
    rest: float,
    window: float,
    seed: int,
    values: int,
    loss: float = 0.0,
    live: int = MOST_LIVE,
    progress: Callable[[int], None] = lambda joined: None,
) -> dict[str, Any]:
    """Let `nodes` join and `rest` seconds pass, then count for `window` seconds. Virtual seconds.

    They keep `values` values, three times each, and compare what they keep; with 0 they only route. Of more than
    `live` nodes SAMPLE run, and the others only answer (Crowd): they keep nothing, and no lookups are counted.
    """
    begun = time.perf_counter()
    policy = Policy() if values else None
    crowd: Sequence[Contact] = ()
    if nodes > live:
        cluster = VirtualCluster(seed, loss=loss, policy=policy)
        contacts = [contact_of(number, seed) for number in range(1, nodes + 1)]
        crowd = Crowd(cluster.network, contacts[SAMPLE:], contacts[:SAMPLE]).contacts
        join(cluster, SAMPLE, contacts[SAMPLE:], progress)
        cluster.run(rest)
    else:
        cluster = grown(nodes, seed, rest, loss=loss, policy=policy, progress=progress)
        if values:
            Load(cluster, Random(f"load {seed}"), values).fill()
            cluster.run(SETTLED)
    traffic = Traffic(cluster)
    cluster.run(window)
    rng = Random(f"idle {seed}")
    members = cluster.members
    truth = Truth(crowd or cluster.contacts())
    right = None if crowd else look_up(cluster, members, LOOKUPS, rng)["right"] / LOOKUPS
    return {
        "nodes": nodes,
        "live": len(members),
        "seed": seed,
        "values": values,
        "loss": loss,
        "rest_seconds": rest,
        "window_seconds": window,
        "traffic": traffic.figures(members, len(members) * window, sampled=bool(crowd)),
        "contacts": sum(len(member.node.table) for member in members) / len(members),
        "tables": truth.accuracy(rng.sample(members, min(len(members), 50))),
        "lookups_right": right,
        "seconds": time.perf_counter() - begun,
        "peak_mib": peak_mib(),
    }
