"""`python -m histories.joins`: all states of an abstract cluster while nodes join it. Status 0 if no promise can be broken."""

import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from histories.joins.explore import explore, orders, program
from histories.joins.model import Setting
from kdht.program import boundary


class Row(msgspec.Struct):
    """One order of distances."""

    order: str
    states: int
    complete: bool
    broken: str
    trace: tuple[str, ...]
    seconds: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--old", type=click.IntRange(1, 4), default=3, show_default=True, help="Nodes that have the record."
)
@click.option("--new", type=click.IntRange(0, 3), default=3, show_default=True, help="Nodes that join.")
@click.option("--order", help="The nodes by distance to the key, as digits. Without: all orders.")
@click.option("--deaths", type=click.IntRange(0, 6), default=0, show_default=True)
@click.option("--writes", type=click.IntRange(0, 2), default=0, show_default=True)
@click.option(
    "--cuts", type=click.IntRange(0, 3), default=0, show_default=True, help="Times the network is divided."
)
@click.option("--any-cut", is_flag=True, help="Cuts divide any nodes from the rest. Without: one node.")
@click.option(
    "--one-by-one", is_flag=True, help="A node's comparisons come one by one, and others' steps between them."
)
@click.option(
    "--most", type=click.IntRange(min=1), default=50_000_000, show_default=True, help="States of each order."
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
def command(
    *,
    old: int,
    new: int,
    order: str | None,
    deaths: int,
    writes: int,
    cuts: int,
    any_cut: bool,
    one_by_one: bool,
    most: int,
    as_json: bool,
) -> int:
    """All states of a cluster of a few nodes and one key, under the present rule for joins (docs/design/replicas.md)."""
    wanted = (
        list(orders(old, new)) if order is None else [tuple(map(int, order))] if order.isdigit() else [()]
    )
    if any(sorted(each) != list(range(old + new)) for each in wanted):
        raise click.UsageError(f"--order has each node once: 0 to {old + new - 1}")
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        binary = program(Path(directory))
        for each in wanted:
            begun = time.monotonic()
            setting = Setting(
                old,
                new,
                each,
                deaths=deaths,
                writes=writes,
                cuts=cuts,
                single=not any_cut,
                remembers=one_by_one,
            )
            found = explore(binary, setting, most)
            rows.append(Row("".join(map(str, each)), *found, round(time.monotonic() - begun, 1)))
            if not as_json:
                _print(rows[-1])
    if as_json:
        print(msgspec.json.encode(rows).decode())
    return 1 if any(row.broken for row in rows) else 0


def _print(row: Row) -> None:
    told = row.broken or (
        "every promise is kept" if row.complete else "nothing found, not all states were seen"
    )
    print(f"{row.order}: {row.states:,} states, {row.seconds:.1f} s: {told}", flush=True)
    for step in row.trace:
        print(f"  {step}")


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "histories.joins")


if __name__ == "__main__":
    sys.exit(main())
