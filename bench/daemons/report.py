"""The figures as tables for the terminal."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

Runs = list[dict[str, Any]]
BAR = 30
SHOWN = 20
"""Steps of a curve that are all shown; of those after them every tenth."""


def survival(runs: Runs) -> list[Table]:
    table = Table("death", "work", "r", "done", "failed", "r died", "p50 ms", "p99 ms", "max ms")
    for run in runs:
        spread = run["milliseconds"]
        failed = f"{run['failed']}{' (those)' if run['failed_are_those'] else ''}"
        counts = (str(run["replicas"]), str(run["done"]), failed, str(run["all_replicas_died"]))
        table.add_row(
            run["how"], run["work"], *counts, *(f"{spread[each]:.2f}" for each in ("p50", "p99", "max"))
        )
    return [table]


def idle(runs: Runs) -> list[Table]:
    table = Table("nodes", "values", "sent / node s", "received / node s", "most sent")
    for run in runs:
        mean = [f"{run[way]['mean']:.2f}" for way in ("sent", "received")]
        table.add_row(str(run["nodes"]), str(run["values"]), *mean, f"{run['sent']['max']:.2f}")
    return [table]


def restart(runs: Runs) -> list[Table]:
    tables = []
    for run in runs:
        ready = run["ready_seconds"]
        title = (
            f"{run['ready']} of {run['nodes']} nodes ready, the last after {ready.get('max', 0):.0f} s; "
            f"idle before: {run['idle']['mean']:.1f} datagrams a second"
        )
        table = Table("second", "a node, mean", "most", "", title=title)
        most = max(point["mean"] for point in run["curve"]) or 1.0
        for point in [*run["curve"][:SHOWN], *run["curve"][SHOWN::10]]:
            bar = "#" * round(BAR * point["mean"] / most)
            table.add_row(f"{point['seconds']:.0f}", f"{point['mean']:.0f}", f"{point['most']:.0f}", bar)
        tables.append(table)
    return tables


def large(runs: Runs) -> list[Table]:
    table = Table(
        "nodes",
        "MiB",
        "lost",
        "way",
        "MiB/s",
        "client CPU ms a MiB",
        "nodes' CPU",
        "client's memory MiB",
        "same",
    )
    for run in runs:
        lost = f"{run['lost_permille'] / 10:g} %"
        same = "yes" if run["same"] else "NO"
        for way, found in run["ways"].items():
            memory = f"{found['client_peak_mib']:.0f} (idle {found['client_idle_mib']:.0f})"
            figures = [
                found[name] for name in ("mib_per_second", "client_cpu_ms_a_mib", "nodes_cpu_ms_a_mib")
            ]
            table.add_row(
                str(run["nodes"]),
                str(run["mebibytes"]),
                lost,
                way,
                *(f"{each:.1f}" for each in figures),
                memory,
                same,
            )
    return [table]


def hot(runs: Runs) -> list[Table]:
    tables = []
    for run in runs:
        share = f"{run['cpu']:g} of a processor each" if run["cpu"] else "no limits"
        table = Table("asked", "gets/s", "failed", "p50 ms", "p99 ms", "answered by the replicas, %", "their processors",
                      "gets for a second of the owner's processor",
                      title=f"{run['nodes']} nodes, {share}, {run['hot']:.0%} of the reads for one key")  # fmt: skip
        for way, found in run["ways"].items():
            total = sum(found["answered"]) or 1
            shares = [f"{each / total:.0%}" for each in found["answered"][: run["replicas"]]]
            used = [f"{each:.3f}" for each in found["processor"][: run["replicas"]]]
            table.add_row(way, f"{found['gets_per_second']:,.0f}", str(found["failed"]), f"{found['p50_ms']:.2f}",
                          f"{found['p99_ms']:.2f}", " ".join(shares), " ".join(used),
                          f"{found['gets_per_owner_second']:,.0f}")  # fmt: skip
        tables.append(table)
    return tables


def joins(runs: Runs) -> list[Table]:
    table = Table("how", "nodes", "operations", "false NOT_FOUND", "overwritten", "ready s, mean", "last")
    for run in runs:
        ready = run["ready_seconds"]
        counts = (sum(run["outcomes"].values()), run["false_not_found"], run["overwritten"])
        nodes = f"{run['old']} + {run['new']}"
        table.add_row(run["how"], nodes, *map(str, counts), f"{ready['mean']:.1f}", f"{ready['max']:.1f}")
    outcomes = Table("outcome", "times")
    for run in runs:
        for outcome, times in sorted(run["outcomes"].items()):
            outcomes.add_row(outcome, str(times))
    return [table, outcomes]


TABLES: dict[str, Callable[[Runs], list[Table]]] = {
    "survival": survival,
    "idle": idle,
    "restart": restart,
    "large": large,
    "hot": hot,
    "joins": joins,
}
