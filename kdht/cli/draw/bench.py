"""Draws the results of `bench`."""

from kdht.cli.bench import Bench
from kdht.cli.report import terminal
from kdht.program.drawing import Column, Listing, counted

PERCENTILES = {"p50": 0, "p90": 4, "p99": 2, "p99.9": 5, "max": 3}
"""By name the rank of its column."""


def bench(data: Bench, *, wide: bool = False) -> None:
    """A line for each phase."""
    drawn = Listing(
        "",
        Column("requests", right=True, rank=1),
        Column("a second", right=True),
        *(Column(name, right=True, rank=rank) for name, rank in PERCENTILES.items()),
        Column("failed", right=True),
        title=f"{data.outstanding} outstanding, values of {counted(data.size, 'byte')}, "
        f"through {', '.join(data.nodes)}; times in ms",
    )
    for phase in data.phases:
        times = phase.ms or {}
        drawn.add(
            phase.op,
            f"{phase.requests:,}",
            f"{phase.per_second:,.0f}",
            *(f"{times[name]:.2f}" if times else "" for name in PERCENTILES),
            str(phase.failed + phase.wrong),
        )
    drawn.print(terminal(), wide=wide)
