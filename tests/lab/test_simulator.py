"""The simulator, in small: its figures are true of what it simulates, and the same every time."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from paths import ROOT

from bench.sim import churn, deaths, expected, idle, static
from bench.sim.__main__ import command
from bench.sim.clusters import grown
from bench.sim.crowd import Crowd
from bench.sim.meters import Holders, Truth
from kdht.lab.virtual import VirtualCluster
from kdht.lab.virtual.cluster import contact_of

SEED = 3


def without_times(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in figures.items() if name not in ("seconds", "cpu_seconds", "peak_mib")
    }


# --- Static overlays ---------------------------------------------------------------------


def test_hops_among_a_thousand_nodes_are_as_expected() -> None:
    figures = static.run(1000, 20_000, SEED, 20)
    mean, p99 = expected.SIMULATED[1000]
    assert figures["astray"] == 0
    assert figures["hops"]["mean"] == pytest.approx(mean, rel=0.1)
    assert figures["hops"]["mean"] == pytest.approx(figures["expected"]["best_of_k"], rel=0.05)
    assert figures["hops"]["p99"] == p99


@pytest.mark.parametrize("k", [1, 3, 8])
def test_hops_are_as_theory_expects_for_other_buckets(k: int) -> None:
    figures = static.run(4096, 10_000, SEED, k)
    assert figures["hops"]["mean"] == pytest.approx(expected.hops(4096, k), rel=0.05)
    assert figures["hops"]["mean"] < expected.halving(4096) / 2


def test_the_same_seed_gives_the_same_hops() -> None:
    first, again, other = (without_times(static.run(300, 2000, seed, 20)) for seed in (1, 1, 2))
    assert first == again != other


# --- Clusters ----------------------------------------------------------------------------


@pytest.mark.slow
def test_32_idle_nodes_know_each_other_and_are_quiet() -> None:
    figures = idle.run(32, 30.0, 60.0, SEED, values=60)
    assert 0 < figures["traffic"]["packets_per_second"] <= 10
    assert sum(figures["traffic"]["by_op"].values()) == pytest.approx(
        figures["traffic"]["packets_per_second"]
    )
    assert figures["traffic"]["per_node"]["mean"] == pytest.approx(figures["traffic"]["packets_per_second"])
    assert {"PING", "FIND_NODE", "DIGEST"} <= set(figures["traffic"]["by_op"])
    assert figures["lookups_right"] == 1
    assert set(figures["tables"].values()) == {0}


@pytest.mark.slow
def test_in_a_crowd_a_node_costs_what_it_costs_where_all_run() -> None:
    """The method by which 10,000 nodes are reckoned, where both can be done."""
    whole = idle.run(60, 60.0, 200.0, SEED, values=60)
    sampled = idle.run(60, 60.0, 200.0, SEED, values=60, live=50)
    assert (whole["live"], sampled["live"], sampled["lookups_right"]) == (60, idle.SAMPLE, None)
    rates = [figures["traffic"]["packets_per_second"] for figures in (whole, sampled)]
    assert rates[0] == pytest.approx(rates[1], rel=0.1)
    assert sampled["traffic"]["per_node"]["mean"] == pytest.approx(rates[1], rel=0.01)
    assert sampled["tables"]["missing_neighbours"] == 0


def test_a_crowd_finds_the_closest_nodes() -> None:
    rng, cluster = Random(SEED), VirtualCluster(SEED)
    crowd = Crowd(cluster.network, [contact_of(number, SEED) for number in range(1, 500)], [])
    for target in (rng.randbytes(20) for _ in range(100)):
        number = int.from_bytes(target, "big")
        near = sorted(crowd.contacts, key=lambda each: int.from_bytes(each.id, "big") ^ number)
        assert crowd.closest(target, 20) == near[:20]
    assert len(crowd.closest(bytes(20), 1000)) == 499


def test_the_same_seed_gives_the_same_run() -> None:
    plan = churn.Plan(nodes=8, seed=SEED, session=40, away=20, duration=40, rest=20, values=10, loss=0.01)
    first, again = (without_times(churn.run(plan)) for _ in range(2))
    assert first == again


def test_lookups_are_right_after_deaths() -> None:
    figures = deaths.run(16, 2, 30.0, SEED)
    assert figures["dead_still_in_tables"] == 0
    assert figures["seconds_until_out_of_all_tables"]["count"] == 2
    assert figures["seconds_until_out_of_a_table"]["count"] == 2 * 14
    assert figures["after"][-1]["lookups_right"] == 1
    assert figures["tables"]["dead_entries"] == 0


def test_holders_count_what_the_published_tables_hold() -> None:
    holders = Holders()
    cluster = grown(12, SEED, 20.0, on_publish=holders.published)
    victim = cluster.members[4]
    holders.died(victim, frozenset())
    cluster.kill(victim)
    for _ in range(20):
        held = sum(victim.contact in member.published() for member in cluster.members)
        assert holders.still_held() == (held > 0)
        assert len(holders.until_out) == 11 - held
        cluster.run(5)


def test_the_simulation_reports_missing_contacts() -> None:
    cluster = VirtualCluster(SEED)
    cluster.grow(6)
    assert Truth(cluster.contacts()).accuracy(cluster.members)["missing_neighbours"] > 0
    cluster.run(30)
    assert set(Truth(cluster.contacts()).accuracy(cluster.members).values()) == {0}
    cluster.kill(cluster.members[-1])
    accuracy = Truth(cluster.contacts()).accuracy(cluster.members)
    assert accuracy["dead_entries"] == pytest.approx(1 / 5)
    assert accuracy["missing_neighbours"] == 0


def test_without_churn_every_value_has_three_copies() -> None:
    plan = churn.Plan(
        nodes=12, seed=SEED, session=0, away=1, duration=30, rest=30, values=40, gets=10, puts=2
    )
    figures = churn.run(plan)
    assert figures["deaths"] == 0
    assert figures["live_mean"] == 12
    assert figures["lookups"] == {"right": 1}
    assert figures["requests"]["get"]["parts"] == {"right": 1}
    assert figures["requests"]["put"]["parts"] == {"acknowledged": 1}
    assert (figures["copies"]["count"], figures["copies"]["out_of_reach"], figures["copies"]["lost"]) == (
        40,
        0,
        0,
    )
    assert figures["copies"]["mean"] == 3


def test_under_churn_most_requests_succeed() -> None:
    plan = churn.Plan(nodes=16, seed=SEED, session=120, away=30, duration=90, rest=30, values=30)
    figures = churn.run(plan)
    assert figures["deaths"] > 3
    assert figures["returns"] > 1
    assert figures["deaths"] - figures["returns"] < 16
    assert 0.5 < figures["lookups"]["right"] <= 1
    assert figures["requests"]["get"]["parts"]["right"] > 0.8
    assert sum(figures["requests"]["get"]["parts"].values()) == pytest.approx(1)


# --- The command ---------------------------------------------------------------------------


def run_command(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--results", str(directory), *arguments])


def test_figures_are_shown_and_kept(tmp_path: Path) -> None:
    shown = run_command(tmp_path, "static", "--nodes", "100,1_000", "--messages", "500", "--seed", "9")
    assert shown.exit_code == 0
    assert "1,000" in shown.output
    kept = json.loads((tmp_path / "sim-static.json").read_text())
    assert [run["nodes"] for run in kept["runs"]] == [100, 1000]
    assert {run["seed"] for run in kept["runs"]} == {9}


def test_shares_are_the_same_every_time_and_shown(tmp_path: Path) -> None:
    asked = ["shares", "--nodes", "1,2,5,12", "--seeds", "2", "--json"]
    first, again = (run_command(tmp_path, *asked) for _ in range(2))
    runs = [[without_times(run) for run in json.loads(done.stdout)["runs"]] for done in (first, again)]
    assert runs[0] == runs[1]
    assert [run["least_possible"] for run in runs[0]] == [1.0, 1.0, 1.25, 1.5]
    assert "greatest owner, together" in first.stderr


def test_kept_figures_are_drawn(tmp_path: Path) -> None:
    small = {
        "static": ["--nodes", "10,20", "--messages", "100"],
        "idle": ["--nodes", "4", "--rest", "10", "--window", "5"],
        "deaths": ["--nodes", "4", "--rest", "10"],
        "churn": ["--nodes", "6", "--sessions", "60", "--duration", "20", "--values", "5"],
    }
    for name, options in small.items():
        assert run_command(tmp_path, name, *options).exit_code == 0
    assert run_command(tmp_path, "plot").exit_code == 0
    assert {path.name for path in tmp_path.glob("*.svg")} == {f"sim-{name}.svg" for name in small}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["static", "--nodes", "many"], "is not numbers"),
        (["static", "--nodes", "10,0"], "is not numbers"),
        (["churn", "--acks", "4"], "--acks 4 is more than --replicas 3"),
        (["plot"], "nothing is kept"),
    ],
)
def test_an_impossible_simulation_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], line: str
) -> None:
    refused = run_command(tmp_path, *arguments)
    assert refused.exit_code != 0
    assert line in refused.output
    assert not list(tmp_path.iterdir())


def test_bench_hands_its_arguments_on(tmp_path: Path) -> None:
    asked = ["sim", "--results", str(tmp_path), "static", "--nodes", "50", "--messages", "10", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["runs"][0]["nodes"] == 50
