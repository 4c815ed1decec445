"""Plots of the figures that are kept, as SVG beside them. Needs matplotlib: `make bench` installs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.sim import expected
from bench.sim.figures import load

Runs = list[dict[str, Any]]


def draw(directory: Path) -> list[Path]:
    """Draw all that there are figures for in `directory`. Raises ClickException without matplotlib."""
    kept = {name: runs for name in PLOTS if (runs := load(directory, name))}
    if not kept:
        return []
    try:
        import matplotlib
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install --group bench") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kdht"  # the same figures give the same file
    return [_draw(directory / f"sim-{name}.svg", PLOTS[name], runs) for name, runs in kept.items()]


def _draw(path: Path, plot: Callable[[Any, Runs], None], runs: Runs) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    plot(figure.subplots(1, 2), runs)
    figure.savefig(path, metadata={"Date": None})
    return path


def static(axes: Any, runs: Runs) -> None:
    hops, load_axes = axes
    sizes = [run["nodes"] for run in runs]
    k = runs[0]["k"]
    hops.plot(
        sizes, [expected.halving(size) for size in sizes], ":", label="one bit a hop: log2 N (Kademlia)"
    )
    hops.plot(
        sizes, [expected.hops(size, k) for size in sizes], "--", label=f"best of k = {k} random contacts"
    )
    hops.plot(sizes, [run["hops"]["mean"] for run in runs], "o-", label="kdht, mean")
    hops.plot(sizes, [run["hops"]["p99"] for run in runs], "^-", label="kdht, p99")
    hops.set(xscale="log", xlabel="nodes", ylabel="hops", title="Hops to the owner")
    hops.legend()
    for what, mark in (("forwarded", "o-"), ("keys", "s-")):
        for part, line in (("p99", "-"), ("max", ":")):
            values = [run[what][part] for run in runs]
            load_axes.plot(sizes, values, mark[0] + line, label=f"{what}, {part}")
    load_axes.set(xscale="log", xlabel="nodes", ylabel="multiple of the mean", title="Load of a node")
    load_axes.legend()


def idle(axes: Any, runs: Runs) -> None:
    total, ops = axes
    sizes = [run["nodes"] for run in runs]
    total.plot(sizes, [run["traffic"]["packets_per_second"] for run in runs], "o-", label="mean")
    total.plot(sizes, [run["traffic"]["per_node"]["max"] for run in runs], "^:", label="the busiest node")
    total.set(
        xscale="log", xlabel="nodes", ylabel="packets sent a second", title="An idle node", ylim=(0, None)
    )
    total.legend()
    names = list(dict.fromkeys(op for run in runs for op in run["traffic"]["by_op"]))
    ops.stackplot(
        sizes, [[run["traffic"]["by_op"].get(op, 0.0) for run in runs] for op in names], labels=names
    )
    ops.set(xscale="log", xlabel="nodes", ylabel="packets sent a second", title="By op", ylim=(0, None))
    ops.legend(loc="lower left")


def deaths(axes: Any, runs: Runs) -> None:
    right, held = axes
    for run in runs:
        name = f"{run['dying']} of {run['nodes']} nodes died"
        times = [each["seconds"] for each in run["after"]]
        right.plot(times, [each["lookups_right"] for each in run["after"]], "o-", label=name)
        held.plot(times, [each["dead_in_tables"] / run["dying"] for each in run["after"]], "o-", label=name)
    right.set(xscale="log", xlabel="seconds after", ylabel="part of lookups", title="Lookups that are right")
    held.set(
        xscale="log", xlabel="seconds after", ylabel="part of the dead", title="Still in some live table"
    )
    right.legend()
    held.legend()


def churn(axes: Any, runs: Runs) -> None:
    available, traffic = axes
    lives = [run["session"] for run in runs]
    available.plot(lives, [run["lookups"]["right"] for run in runs], "o-", label="lookups that are right")
    for what, how in (("get", "right"), ("put", "acknowledged")):
        parts = [run["requests"].get(what, {}).get("parts", {}).get(how, 0.0) for run in runs]
        available.plot(lives, parts, "s-", label=f"{what}s {how}, with retries")
    available.set(xscale="log", xlabel="mean life, seconds", ylabel="part", title="Availability under churn")
    available.legend()
    names = list(dict.fromkeys(op for run in runs for op in run["traffic"]["by_op"]))
    traffic.stackplot(
        lives, [[run["traffic"]["by_op"].get(op, 0.0) for run in runs] for op in names], labels=names
    )
    traffic.set(
        xscale="log", xlabel="mean life, seconds", ylabel="packets sent a second", title="Traffic of a node"
    )
    traffic.legend(fontsize="x-small", ncols=2)


PLOTS: dict[str, Callable[[Any, Runs], None]] = {
    "static": static,
    "idle": idle,
    "deaths": deaths,
    "churn": churn,
}
