"""Nodes that live and are away for exponential times, under requests: traffic, availability, tables.

A node dies without a word, and comes back with its ID and its disk, through a random live node. The records
are the cluster's own business: whatever handoff and repair it has is what is measured.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from bench.sim.clusters import grown
from bench.sim.figures import spread
from bench.sim.load import Load
from bench.sim.meters import NEIGHBOURS, Holders, Traffic, Truth, look_up
from kdht.lab.virtual import Member, VirtualCluster
from kdht.node.replicas import Policy

TABLES_EVERY = 30.0
TABLES = 20
"""How many tables are compared with the truth each time."""
LOOKUPS = 5
"""A second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens. Times are virtual seconds, rates a second."""

    nodes: int
    seed: int
    session: float
    """A node's mean life; 0: no churn."""
    away: float
    """And its mean absence."""
    duration: float
    rest: float = 120.0
    loss: float = 0.0
    values: int = 500
    gets: float = 5.0
    puts: float = 1.0
    replicas: int = 3
    acks: int = 2


class Churn:
    """One run."""

    def __init__(self, plan: Plan, progress: Callable[[int], None] = lambda joined: None) -> None:
        self.plan = plan
        self.holders = Holders()
        self.cluster: VirtualCluster = grown(
            plan.nodes,
            plan.seed,
            plan.rest,
            loss=plan.loss,
            policy=Policy(replicas=plan.replicas, acks=plan.acks),
            on_publish=self.holders.published,
            progress=progress,
        )
        self.rng = Random(f"churn {plan.seed}")
        self.numbers = {member.contact.id: number for number, member in enumerate(self.cluster.members, 1)}
        self.load = Load(self.cluster, Random(f"load {plan.seed}"), plan.values)
        self.lookups: Counter[str] = Counter()
        self.samples: list[dict[str, float]] = []
        self.deaths = self.returns = 0
        self.node_seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Let it happen; its figures."""
        plan, network = self.plan, self.cluster.network
        self.load.fill()
        traffic = Traffic(self.cluster)
        begun = network.now
        end = begun + plan.duration
        if plan.session:
            for member in self.cluster.members:
                network.call_at(network.now + self.rng.expovariate(1 / plan.session), self._die, member)
        self.load.start(plan.gets, plan.puts, end)
        next_tables: float = begun
        while network.now < end:
            self.node_seconds += len(self.cluster.members)
            self.cluster.run(1.0)
            self.lookups += look_up(self.cluster, self._ready(), LOOKUPS, self.rng)
            if network.now >= next_tables:
                next_tables += TABLES_EVERY
                self._look_at_tables()
        live = self.cluster.members
        return {
            **asdict(plan),
            "deaths": self.deaths,
            "returns": self.returns,
            "live_mean": self.node_seconds / plan.duration,
            "traffic": traffic.figures(live, self.node_seconds),
            "lookups": {end: number / self.lookups.total() for end, number in self.lookups.items()},
            "requests": self.load.figures(),
            "copies": self.load.copies(),
            "tables": {name: spread([each[name] for each in self.samples]) for name in self.samples[0]},
            **self.holders.figures(),
        }

    def _die(self, member: Member) -> None:
        if len(self.cluster.members) > 1:
            self.deaths += 1
            near = Truth(self.cluster.contacts()).closest(member.contact.id, NEIGHBOURS)
            self.holders.died(member, frozenset(near))
            self.cluster.kill(member)
            wake = self.cluster.network.now + self.rng.expovariate(1 / self.plan.away)
            self.cluster.network.call_at(wake, self._return, member)

    def _return(self, former: Member) -> None:
        self.returns += 1
        self.holders.came_back(former.contact.id)
        bootstrap = [self.rng.choice(self.cluster.members).contact]
        member = self.cluster.add(self.numbers[former.contact.id], bootstrap)
        network = self.cluster.network
        network.call_at(network.now + self.rng.expovariate(1 / self.plan.session), self._die, member)

    def _ready(self) -> list[Member]:
        return [member for member in self.cluster.members if member.node.ready] or self.cluster.members

    def _look_at_tables(self) -> None:
        ready = self._ready()
        truth = Truth(self.cluster.contacts())
        self.samples.append(truth.accuracy(self.rng.sample(ready, min(TABLES, len(ready)))))


def run(plan: Plan, progress: Callable[[int], None] = lambda joined: None) -> dict[str, Any]:
    """A run's figures, and the real seconds that it took."""
    begun = time.perf_counter()
    figures = Churn(plan, progress).run()
    return {**figures, "seconds": time.perf_counter() - begun}
