"""The measurements: every peer gets the same values, and is asked for them in the same way.

In each round, peers in turn: a new cluster; values written one at a time; the rest of them with
OUTSTANDING at a time; values read one at a time, never read before; all of them with OUTSTANDING at a time, in passes. The
first pass over the values counts apart: a cache has nothing yet.
"""

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import SEED, Kind, Running, Timing, make_values
from bench.peers.counting import pss_mib
from bench.peers.missing import PeerMissing
from bench.peers.sites import Site

OUTSTANDING = 32
Figures = dict[str, float]

Tell = Callable[[str], None]
MakeSite = Callable[[int], AbstractContextManager[Site]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of it."""

    values: int = 3000
    size: int = 100
    alone: int = 300
    passes: int = 10
    """Of a peer whose scale is 1 or more."""
    rounds: int = 3


def compare(
    kinds: Sequence[Kind], nodes: Sequence[int], make_site: MakeSite, plan: Plan, tell: Tell
) -> tuple[dict[str, dict[str, Figures]], dict[str, str]]:
    """Medians by number of nodes and peer, and the causes of missing peers. A failed one is missing."""
    values = make_values(plan.values, plan.size)
    missing = {kind.name: why for kind in kinds if (why := kind.missing())}
    found: dict[int, dict[str, list[Figures]]] = {count: {} for count in nodes}
    for count in nodes:
        for number in range(plan.rounds):
            for kind in kinds:
                if kind.name in missing:
                    continue
                tell(f"{kind.name}, {count} nodes, round {number + 1} of {plan.rounds}")
                try:
                    with make_site(count) as site:
                        figures = one_round(kind, site, values, plan)
                except PeerMissing as why:
                    tell(f"  {why}")
                    missing[f"{kind.name}, {count} nodes"] = str(why)
                    continue
                found[count].setdefault(kind.name, []).append(figures)
                tell(f"  {figures['get_per_second']:,.0f} gets/s, {figures['put_per_second']:,.0f} puts/s")
    clusters = {
        str(count): {name: medians(rounds) for name, rounds in by_name.items()}
        for count, by_name in found.items()
    }
    return clusters, missing


def one_round(kind: Kind, site: Site, values: Sequence[bytes], plan: Plan) -> Figures:
    """One cluster from start to end. Raises PeerMissing."""
    wanted = min(max(int(len(values) * kind.scale), 2 * plan.alone // 3), len(values))
    few = min(plan.alone, wanted // 2)
    numbers = list(range(wanted))
    with (
        tempfile.TemporaryDirectory(prefix="kdht-peers.") as directory,
        kind.cluster(site, values, Path(directory)) as running,
    ):
        figures = {"pss_mib": statistics.mean(pss_mib(pid) for pid in running.pids())}
        _add(figures, "put_alone", running.put(numbers[:few], 1))
        _costly(figures, "put", site, running, lambda: running.put(numbers[few:], OUTSTANDING))
        random.Random(SEED).shuffle(numbers)
        _add(figures, "get_alone", running.get(numbers[:few], 1))
        _add(figures, "get_first", running.get(numbers[few:], OUTSTANDING))
        again = numbers * max(int(plan.passes * kind.scale), 1)
        _costly(figures, "get", site, running, lambda: running.get(again, OUTSTANDING))
    return figures


def _costly(figures: Figures, what: str, site: Site, running: Running, load: Callable[[], Timing]) -> None:
    """A load with its cost, of all nodes and the client together."""
    packets, cpu = site.packets(), site.cpu_seconds(running.pids())
    done = load()
    cpu = site.cpu_seconds(running.pids()) - cpu
    if not site.counts_all:
        cpu += done.client_cpu
    _add(figures, what, done)
    figures[f"{what}_packets"] = (site.packets() - packets) / done.done
    figures[f"{what}_cpu_us"] = 1e6 * cpu / done.done


def _add(figures: Figures, what: str, done: Timing) -> None:
    figures[f"{what}_per_second"] = (done.done - done.failed) / done.seconds
    figures[f"{what}_p50_ms"] = done.p50
    figures[f"{what}_p99_ms"] = done.p99
    figures[f"{what}_failed"] = float(done.failed)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Figure by figure; of failures the sum."""
    return {
        name: (sum if name.endswith("_failed") else statistics.median)(figures[name] for figures in rounds)
        for name in rounds[0]
    }
