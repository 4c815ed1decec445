"""`python -m histories.virtual`: see histories/virtual/__init__.py. Ends with status 0 only if every promise was kept."""

import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import click
from rich.console import Console

from histories.verdict import Violation
from histories.virtual.play import play
from histories.virtual.schedule import PROFILES, draw
from histories.virtual.shrink import shrink
from kdht.program import boundary

CHUNK = 50
"""Schedules that a process takes at once."""
SHOWN = 5
"""Violations of one schedule that are printed."""
LARGE_HISTORY = 80


class Outcome(NamedTuple):
    """What became of one schedule."""

    seed: int
    operations: int
    is_late: bool
    outcomes: Counter[tuple[str, str]]
    violations: tuple[Violation, ...]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--schedules", type=click.IntRange(min=1), default=1000, show_default=True, help="How many.")
@click.option("--seed", type=int, help="The first one's; the next has the next. Without: from the clock.")
@click.option(
    "--profile", type=click.Choice(tuple(PROFILES)), help="Only these. Without: as the seed draws it."
)
@click.option("--processes", type=click.IntRange(min=1), help="At once. Without: one for each processor.")
@click.option(
    "--most", type=click.IntRange(min=1), default=5, show_default=True, help="Stop after so many failures."
)
@click.option("--no-shrink", is_flag=True, help="Print what failed as it is.")
def command(
    schedules: int, seed: int | None, profile: str | None, processes: int | None, most: int, no_shrink: bool
) -> int:
    """Short schedules of faults on a virtual cluster, and whether the promises of docs/guarantees.md were kept."""
    console = Console(highlight=False, soft_wrap=True)
    first = seed if seed is not None else int(time.time()) % 1_000_000_000
    begun = time.monotonic()
    tally: Counter[str] = Counter()
    failures: list[Outcome] = []
    for outcome in _played(first, schedules, profile, processes or os.cpu_count() or 1):
        tally["schedules"] += 1
        tally["operations"] += outcome.operations
        tally["late"] += outcome.is_late
        if outcome.violations:
            failures.append(outcome)
            _print(console, outcome, profile, small=not no_shrink)
            if len(failures) >= most:
                break
        if tally["schedules"] % 1000 == 0:
            console.print(f"{tally['schedules']:,} schedules, {time.monotonic() - begun:.0f} s")
    promises = Counter(
        v.promise for each in failures for v in {v.promise: v for v in each.violations}.values()
    )
    console.print(
        f"{tally['schedules']:,} schedules from seed {first} on, {tally['operations']:,} operations, "
        f"{time.monotonic() - begun:.0f} s, {tally['late']} were at rest late only: "
        + (f"{len(failures)} broke a promise: {dict(promises)}" if failures else "every promise was kept")
    )
    return 1 if failures else 0


def _played(first: int, count: int, profile: str | None, processes: int) -> Iterator[Outcome]:
    work = [(seed, profile) for seed in range(first, first + count)]
    if processes == 1:
        _prepare()
        yield from map(_one, work)
        return
    with multiprocessing.get_context("fork").Pool(processes, initializer=_prepare) as pool:
        yield from pool.imap_unordered(_one, work, chunksize=min(CHUNK, max(1, count // processes)))


def _prepare() -> None:
    """Schedules make rings of objects, each thousands: collected one whole schedule at a time, without all that was there before."""
    gc.disable()
    gc.freeze()


def _one(work: tuple[int, str | None]) -> Outcome:
    seed, profile = work
    played = play(draw(seed, profile))
    gc.collect()
    return Outcome(
        seed,
        len(played.history),
        played.is_late,
        Counter((operation.kind, operation.outcome) for operation in played.history),
        played.violations,
    )


def _print(console: Console, outcome: Outcome, profile: str | None, *, small: bool) -> None:
    """The violations, the schedule made small, and the history that it gives."""
    console.print(f"seed {outcome.seed}:")
    for violation in outcome.violations[:SHOWN]:
        console.print(f"  {violation}", markup=False)
    schedule = draw(outcome.seed, profile)
    if small:
        schedule = shrink(schedule, frozenset(violation.promise for violation in outcome.violations))
    console.print("  " + str(schedule).replace("\n", "\n  "), markup=False)
    played = play(schedule)
    for operation in played.history[:LARGE_HISTORY]:
        console.print(f"    {operation}", markup=False)
    for violation in played.violations[:SHOWN]:
        console.print(f"  {violation}", markup=False)


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "histories.virtual")


if __name__ == "__main__":
    sys.exit(main())
