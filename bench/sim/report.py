"""The figures as tables for the terminal."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.table import Table

from bench.sim.expected import SIMULATED

Runs = list[dict[str, Any]]


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash where nothing was to be measured."""
    return "-" if value is None else format(value, form)


def static(runs: Runs) -> list[Table]:
    def wanted(run: dict[str, Any], which: int) -> str:
        return str(SIMULATED[run["nodes"]][which]) if run["nodes"] in SIMULATED else "-"

    return [
        _transposed("nodes", runs, [f"{run['nodes']:,}" for run in runs], [
            ("hops, mean", lambda run: number(run["hops"]["mean"])),
            ("  to be met", lambda run: wanted(run, 0)),
            ("  best of k random contacts", lambda run: number(run["expected"]["best_of_k"])),
            ("  one bit a hop: log2 N", lambda run: number(run["expected"]["halving"])),
            ("hops, p99", lambda run: str(run["hops"]["p99"])),
            ("  to be met", lambda run: wanted(run, 1)),
            ("hops, max", lambda run: str(run["hops"]["max"])),
            ("forwarded by a node, p50 / mean", lambda run: number(run["forwarded"].get("p50"))),
            ("forwarded by a node, p99 / mean", lambda run: number(run["forwarded"].get("p99"))),
            ("forwarded by a node, max / mean", lambda run: number(run["forwarded"].get("max"))),
            ("keys of a node, p50 / mean", lambda run: number(run["keys"]["p50"])),
            ("keys of a node, p99 / mean", lambda run: number(run["keys"]["p99"])),
            ("keys of a node, max / mean", lambda run: number(run["keys"]["max"])),
            ("messages astray", lambda run: f"{run['astray']:,} of {run['messages']:,}"),
            ("seconds", lambda run: number(run["seconds"], ".0f")),
            ("  of one processor's time", lambda run: number(run["cpu_seconds"], ".0f")),
            ("peak memory, MiB", lambda run: number(run["peak_mib"], ".0f")),
        ])
    ]  # fmt: skip


def idle(runs: Runs) -> list[Table]:
    names = [f"{run['nodes']:,}" for run in runs]
    table = _transposed("nodes", runs, names, [
        ("of which ran", lambda run: f"{run['live']:,}"),
        ("packets/s of a node", lambda run: number(run["traffic"]["packets_per_second"])),
        ("  of the busiest", lambda run: number(run["traffic"]["per_node"]["max"])),
        ("bytes/s of a node", lambda run: number(run["traffic"]["bytes_per_second"], ".0f")),
        ("contacts of a node", lambda run: number(run["contacts"], ".0f")),
        ("lookups right", lambda run: number(run["lookups_right"], ".1%")),
        ("closest nodes missing", lambda run: number(run["tables"]["missing_neighbours"], ".1%")),
        ("buckets empty, wrongly", lambda run: number(run["tables"]["empty_buckets"], ".1%")),
        ("seconds", lambda run: number(run["seconds"], ".0f")),
        ("peak memory, MiB", lambda run: number(run["peak_mib"], ".0f")),
    ])  # fmt: skip
    return [table, by_op(runs, names)]


def deaths(runs: Runs) -> list[Table]:
    def until(where: str, part: str) -> Callable[[dict[str, Any]], str]:
        return lambda run: number(run[f"seconds_until_out_of_{where}"].get(part), ".1f")

    names = [f"{run['nodes']:,}" for run in runs]
    times = _transposed("seconds until the dead are out", runs, names, [
        ("nodes that died", lambda run: str(run["dying"])),
        ("of a neighbour's table, p50", until("a_neighbours_table", "p50")),
        ("of a neighbour's table, p99", until("a_neighbours_table", "p99")),
        ("of a table, p50", until("a_table", "p50")),
        ("of a table, p99", until("a_table", "p99")),
        ("of all tables, p50", until("all_tables", "p50")),
        ("of all tables, max", until("all_tables", "max")),
    ])  # fmt: skip
    curve = Table("lookups right, seconds after", *names)
    for moments in zip(*(run["after"] for run in runs), strict=True):
        rights = (number(each["lookups_right"], ".1%") for each in moments)
        curve.add_row(f"{moments[0]['seconds']:g}", *rights)
    return [times, curve]


def churn(runs: Runs) -> list[Table]:
    names = [f"{run['session']:,.0f} s" for run in runs]
    table = _transposed("mean life", runs, names, [
        ("live nodes, mean", lambda run: number(run["live_mean"], ".1f")),
        ("deaths, returns", lambda run: f"{run['deaths']}, {run['returns']}"),
        ("packets/s of a node", lambda run: number(run["traffic"]["packets_per_second"])),
        ("lookups right", lambda run: number(run["lookups"]["right"], ".1%")),
        ("gets right", lambda run: number(_part(run, "get", "right"), ".2%")),
        ("gets old", lambda run: number(_part(run, "get", "old"), ".2%")),
        ("gets NOT_FOUND", lambda run: number(_part(run, "get", "NOT_FOUND"), ".2%")),
        ("gets without answer", lambda run: number(_part(run, "get", "no answer"), ".2%")),
        ("get p50, p99, seconds", lambda run: _times(run, "get")),
        ("puts acknowledged", lambda run: number(_part(run, "put", "acknowledged"), ".2%")),
        ("put p50, p99, seconds", lambda run: _times(run, "put")),
        ("values on no live node", lambda run: _of(run, "out_of_reach")),
        ("values on no disk", lambda run: _of(run, "lost")),
        ("copies of a value, mean", lambda run: number(run["copies"].get("mean"))),
        ("dead entries in tables", lambda run: number(run["tables"]["dead_entries"]["mean"], ".1%")),
        ("closest nodes missing", lambda run: number(run["tables"]["missing_neighbours"]["mean"], ".1%")),
        ("out of a table, p50, s", lambda run: number(run["seconds_until_out_of_a_table"].get("p50"), ".1f")),
    ])  # fmt: skip
    return [table, by_op(runs, names)]


def shares(runs: Runs) -> list[Table]:
    """The greatest share as a multiple of the mean, median and worst of the seeds."""
    names = [f"{run['nodes']:,}" for run in runs]
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("least possible owner", lambda run: number(run["least_possible"]))
    ]
    for what in ("owner", "keeper"):
        rows += [
            (f"greatest {what}, {way}", partial(_median_and_worst, way, what)) for way in runs[0]["ways"]
        ]
    rows.append(("moves until even", partial(_median_and_worst, "churn, moved", "moves")))
    rows.append(("seconds", lambda run: number(run["seconds"], ".0f")))
    return [_transposed("nodes", runs, names, rows)]


def _median_and_worst(way: str, what: str, run: dict[str, Any]) -> str:
    found = run["ways"][way][what]
    return f"{number(found['median'])}, {number(found['worst'])}"


def _transposed(
    title: str, runs: Runs, names: list[str], rows: list[tuple[str, Callable[[dict[str, Any]], str]]]
) -> Table:
    """A column for each run."""
    table = Table(title, *names)
    for name, cell in rows:
        table.add_row(name, *(cell(run) for run in runs))
    return table


def by_op(runs: Runs, names: list[str]) -> Table:
    """Packets a second of a node, a row an op."""
    table = Table("packets/s of a node", *names)
    for op in dict.fromkeys(op for run in runs for op in run["traffic"]["by_op"]):
        table.add_row(op, *(number(run["traffic"]["by_op"].get(op)) for run in runs))
    return table


def _part(run: dict[str, Any], what: str, how: str) -> float | None:
    found = run["requests"].get(what)
    return None if found is None else found["parts"].get(how, 0.0)


def _of(run: dict[str, Any], which: str) -> str:
    return f"{run['copies'][which]} of {run['copies']['count']}"


def _times(run: dict[str, Any], what: str) -> str:
    seconds = run["requests"].get(what, {}).get("seconds", {})
    return f"{number(seconds.get('p50'), '.3f')}, {number(seconds.get('p99'), '.3f')}"


TABLES: dict[str, Callable[[Runs], list[Table]]] = {
    "static": static,
    "idle": idle,
    "deaths": deaths,
    "churn": churn,
    "shares": shares,
}
