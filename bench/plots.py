"""Plots of the figures of `make bench` and bench/soak.py, as SVG beside them. Needs matplotlib."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Axes = Any


def draw(directory: Path) -> list[Path]:
    """Draw all kept figures. Raises ClickException without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install --group bench") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kdht"  # the same figures give the same file
    drawn = []
    for name, (plot, columns) in PLOTS.items():
        path = directory / f"{name}.json"
        if path.exists():
            drawn.append(_draw(directory / f"{name}.svg", plot, columns, json.loads(path.read_text())))
    return drawn


def _draw(path: Path, plot: Callable[[Any, Any], None], columns: int, found: Any) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4.2), layout="constrained")
    plot(figure.subplots(1, columns), found)
    figure.savefig(path, metadata={"Date": None})
    return path


def peers(axes: Axes, found: Any) -> None:
    """Bars for the largest cluster on loopback, and the largest on hosts of their own."""
    figures = {}
    titles = []
    for name, words in (("clusters", ""), ("hosts", ", hosts")):
        if found.get(name):
            nodes, largest = max(found[name].items(), key=lambda item: int(item[0]))
            figures |= {f"{peer}{words}": row for peer, row in largest.items()}
            titles.append(nodes)
    shown = (
        ("get_per_second", "gets/s, 32 outstanding"),
        ("get_cpu_us", "CPU a get, µs"),
        ("put_per_second", "puts/s, 32 outstanding"),
    )
    for axis, (key, title) in zip(axes, shown, strict=True):
        bars = axis.barh(list(figures), [row[key] for row in figures.values()])
        axis.bar_label(bars, fmt="{:,.0f}")
        axis.set(xscale="log", title=f"{title}: {' and '.join(dict.fromkeys(titles))} nodes")


def scaling(axes: Axes, found: Any) -> None:
    for axis, (name, label) in zip(
        axes, (("nodes", "nodes"), ("size", "bytes of a value"), ("keys", "keys of one node")), strict=True
    ):
        rows = found["sizes" if name == "size" else name]
        xs = [row[name] for row in rows]
        axis.plot(xs, [row["get_per_second"] for row in rows], "o-", label="gets/s, 32 outstanding")
        if rows and "put_per_second" in rows[0]:
            axis.plot(xs, [row["put_per_second"] for row in rows], "^-", label="puts/s, 32 outstanding")
        axis.set(xscale="log", yscale="log", xlabel=label)
        other = axis.twinx()
        latency = "get_p50_ms" if name == "keys" else "get_alone_p50_ms"
        other.plot(xs, [1e3 * row[latency] for row in rows], "s:", color="tab:gray", label="p50, µs")
        other.set(ylabel="p50 of a get, µs (alone; for keys: 32 outstanding)", ylim=(0, None))
        axis.legend()


def soak(axes: Axes, found: Any) -> None:
    memory, rates = axes
    points = found["points"]
    minutes = [point["seconds"] / 60 for point in points]
    for key in ("rss_mib", "pss_mib"):
        memory.plot(minutes, [point[key] for point in points], label=key.partition("_")[0].upper())
    memory.set(xlabel="minutes", ylabel="MiB, the largest node", ylim=(0, None))
    for key in ("gets_per_second", "puts_per_second"):
        rates.plot(minutes, [point[key] for point in points], label=key.replace("_per_second", "/s"))
    rates.set(xlabel="minutes", yscale="log")
    for axis in axes:
        axis.legend()


PLOTS: dict[str, tuple[Callable[[Any, Any], None], int]] = {
    "peers": (peers, 3),
    "scaling": (scaling, 3),
    "soak": (soak, 2),
}
"""By the file that has the figures: how they are drawn, and how many plots stand side by side."""
