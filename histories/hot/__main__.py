"""`python -m histories.hot`: see histories/hot/__init__.py. Ends with status 0 only if every promise was kept."""

import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from rich.console import Console

from histories.hot.run import Plan, Report, run
from kdht.program import boundary

SHOWN = 8


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Of faults, writes and IDs. Without: from the clock.")
@click.option("--reads", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option("--faults", type=click.IntRange(min=0), default=12, show_default=True, help="At least.")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=30.0, show_default=True, help="At most.")
@click.option("--nodes", type=click.IntRange(3, 15), default=4, show_default=True)
@click.option("--readers", type=click.IntRange(1, 256), default=32, show_default=True)
@click.option("--writers", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--keys", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--deaf", is_flag=True, help="With caches that do not hear of changes: the check has to fail.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/histories"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
def command(keep: Path, as_json: bool, seed: int | None, **options: object) -> int:
    """Hot records read in XDP beside conditional writes and faults, and whether a read at the owner was ever old."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    chosen = seed if seed is not None else int(time.time()) % 1_000_000
    plan = msgspec.convert({"seed": chosen, **options}, Plan)
    directory = (keep / f"hot-{plan.seed}").absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    console.print(f"seed {plan.seed}: {plan.nodes} nodes, {plan.readers} readers, {plan.writers} writers")
    report = run(plan, directory, lambda text: console.print(f"  {text}"))
    _print(report, console)
    if report.holds:
        shutil.rmtree(directory)
    else:
        console.print(f"  kept in {directory}")
    if as_json:
        print(msgspec.json.encode(report).decode())
    return 0 if report.holds else 1


def _print(report: Report, console: Console) -> None:
    console.print(
        f"  {report.reads:,} reads ({report.in_xdp:,} GETs answered in XDP, {report.at_owners:,} in the search), "
        f"{len(report.acts)} faults, {report.seconds:.0f} s, checked in {report.checked_seconds:.0f} s"
    )
    console.print("  " + ", ".join(f"{name} {number:,}" for name, number in sorted(report.outcomes.items())))
    if report.holds:
        console.print("  every promise was kept")
    promises = Counter(violation.promise for violation in report.violations)
    if promises:
        console.print("  violated: " + ", ".join(f"{name} {number}" for name, number in promises.items()))
    for violation in report.violations[:SHOWN]:
        console.print(f"  {violation}", markup=False)
    for text in report.undecided:
        console.print(f"  undecided: {text}", markup=False)


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "histories")


if __name__ == "__main__":
    sys.exit(main())
