"""Draws the results of `bench`."""

from rich.table import Table

from kdht.cli.bench import Bench
from kdht.cli.report import terminal


def bench(data: Bench) -> None:
    """A line for each phase."""
    names = ("p50", "p90", "p99", "p99.9", "max")
    title = f"{data.outstanding} outstanding, values of {data.size} bytes, through {', '.join(data.nodes)}"
    drawn = Table(
        "", "requests", "a second", *names, "failed", title=f"{title}; ms", box=None, padding=(0, 2)
    )
    for column in drawn.columns[1:]:
        column.justify = "right"
    for phase in data.phases:
        times = phase.ms or {}
        drawn.add_row(
            phase.op,
            f"{phase.requests:,}",
            f"{phase.per_second:,.0f}",
            *(f"{times[name]:.2f}" if times else "" for name in names),
            str(phase.failed + phase.wrong),
        )
    terminal().print(drawn)
