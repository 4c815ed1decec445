"""Nodes die silently, all at once: the time until they leave all tables, and the cost for lookups."""

import time
from collections.abc import Callable
from random import Random
from typing import Any

from bench.sim.clusters import grown
from bench.sim.meters import NEIGHBOURS, Holders, Traffic, Truth, look_up

LOOKUPS = 500
"""At each time."""
MOMENTS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds after the deaths at which tables are looked at."""


def run(
    nodes: int,
    dying: int,
    rest: float,
    seed: int,
    loss: float = 0.0,
    progress: Callable[[int], None] = lambda joined: None,
) -> dict[str, Any]:
    """Figures of `dying` of `nodes` nodes that die `rest` seconds after the last joined. Virtual seconds."""
    begun = time.perf_counter()
    holders = Holders()
    cluster = grown(nodes, seed, rest, loss=loss, on_publish=holders.published, progress=progress)
    rng = Random(f"deaths {seed}")
    truth = Truth(cluster.contacts())
    victims = rng.sample(cluster.members, dying)
    for victim in victims:
        holders.died(victim, frozenset(truth.closest(victim.contact.id, NEIGHBOURS)))
    for victim in victims:
        cluster.kill(victim)
    traffic = Traffic(cluster)
    curve, then = [], 0.0
    for moment in MOMENTS:
        cluster.run(moment - then)
        then = moment
        ends = look_up(cluster, cluster.members, LOOKUPS, rng)
        curve.append(
            {
                "seconds": moment,
                "lookups_right": ends["right"] / LOOKUPS,
                "lookups_dead": ends["dead"] / LOOKUPS,
                "dead_in_tables": holders.still_held(),
            }
        )
    live = cluster.members
    return {
        "nodes": nodes,
        "dying": dying,
        "seed": seed,
        "loss": loss,
        "rest_seconds": rest,
        **holders.figures(),
        "after": curve,
        "traffic": traffic.figures(live, len(live) * then),
        "tables": Truth([member.contact for member in live]).accuracy(rng.sample(live, min(len(live), 50))),
        "seconds": time.perf_counter() - begun,
    }
