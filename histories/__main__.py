"""`make histories`: see histories/__init__.py. Ends with status 0 only if every promise was kept."""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from rich.console import Console

from histories.plan import KINDS, NEEDS_BRIDGE
from histories.run import Plan, Report, run
from kdht.program import boundary

SHOWN = 8
"""Violations that are printed; report.json has all."""
UNLESS_NAMED = tuple(kind for kind in KINDS if kind != "halves")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="The first history's; the next has the next. Without: from the clock.")
@click.option("--histories", type=click.IntRange(min=1), default=1, show_default=True, help="How many.")
@click.option("--operations", type=click.IntRange(min=1), default=20_000, show_default=True, help="Of each.")
@click.option(
    "--minutes", type=click.FloatRange(min=0.05), default=10.0, show_default=True, help="Of each, at most."
)
@click.option(
    "--datapath", type=click.Choice(["socket", "nfqueue", "ebpf"]), default="socket", show_default=True
)
@click.option(
    "--nemesis",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="Only these; may be repeated. Without: all but halves, which divides a cluster into two that both go on.",
)
@click.option("--nodes", type=click.IntRange(3, 15), default=5, show_default=True)
@click.option("--replicas", type=click.IntRange(1, 15), default=3, show_default=True)
@click.option("--ipv6", is_flag=True, help="IPv6 in place of IPv4.")
@click.option(
    "--loopback", is_flag=True, help="Without root: socket datapath, and only faults that need no network."
)
@click.option(
    "--pause", "pause_ms", type=click.FloatRange(min=0), default=10.0, show_default=True, help="ms."
)
@click.option("--keys", type=click.IntRange(min=1), default=4, show_default=True, help="Of each kind.")
@click.option(
    "--generation",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Conversations of a client until it goes on to new keys.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    default=Path("build/histories"),
    show_default=True,
    help="Where failing histories are kept, with the daemons' logs.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
def command(
    seed: int | None, histories: int, kinds: Sequence[str], keep: Path, as_json: bool, **options: object
) -> int:
    """Clients and faults on real daemons, and whether the promises of docs/guarantees.md were kept."""
    if int(str(options["replicas"])) > int(str(options["nodes"])):
        raise click.UsageError("--replicas is at most --nodes")
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    first = seed if seed is not None else int(time.time()) % 1_000_000
    chosen = _kinds(kinds, bool(options["loopback"]), str(options["datapath"]), bool(options["ipv6"]))
    reports = []
    for number in range(first, first + histories):
        plan = msgspec.convert({"seed": number, "kinds": chosen, **options}, Plan)
        reports.append(_one(plan, keep, console))
    if as_json:
        print(msgspec.json.encode(reports).decode())
    return 0 if all(report.holds for report in reports) else 1


def _kinds(kinds: Sequence[str], loopback: bool, datapath: str, ipv6: bool) -> tuple[str, ...]:
    if not loopback:
        return tuple(kinds) or UNLESS_NAMED
    if datapath != "socket" or ipv6:
        raise click.UsageError("--loopback is for the socket datapath and IPv4")
    if refused := NEEDS_BRIDGE.intersection(kinds):
        raise click.UsageError(f"on loopback there is no {', '.join(sorted(refused))}: leave out --loopback")
    return tuple(kinds) or tuple(kind for kind in UNLESS_NAMED if kind not in NEEDS_BRIDGE)


def _one(plan: Plan, keep: Path, console: Console) -> Report:
    """Play one history; its folder stays if it failed, or was interrupted by an error."""
    name = [str(plan.seed), plan.datapath, *(["ipv6"] if plan.ipv6 else [])]
    if len(plan.kinds) < SHOWN:
        name += plan.kinds
    directory = (keep / "-".join(name)).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    console.print(f"seed {plan.seed}: {plan.nodes} nodes, {plan.replicas} replicas, {plan.datapath}")
    report = run(plan, directory, lambda text: console.print(f"  {text}"))
    console.print(
        f"  {report.operations:,} operations, {len(report.acts)} faults, {report.seconds:.0f} s, "
        f"checked in {report.checked_seconds:.1f} s"
    )
    console.print("  " + ", ".join(f"{name} {number}" for name, number in report.outcomes.items()))
    if report.holds:
        console.print("  every promise was kept")
        shutil.rmtree(directory)
        return report
    _print_violations(report, console)
    for text in report.undecided:
        console.print(f"  undecided: {text}", markup=False)
    console.print(f"  kept in {directory}; again: {_again(plan)}")
    return report


def _print_violations(report: Report, console: Console) -> None:
    """How many of each promise, and one of each key."""
    promises = Counter(violation.promise for violation in report.violations)
    console.print("  violated: " + ", ".join(f"{name} {number}" for name, number in promises.items()))
    first = {(violation.promise, violation.key): violation for violation in reversed(report.violations)}
    for violation in list(reversed(first.values()))[:SHOWN]:
        console.print(f"  {violation}", markup=False)


def _again(plan: Plan) -> str:
    """The command that plays the same plan."""
    words = ["python", "-m", "histories"]
    for name, value in msgspec.to_builtins(plan).items():
        if name == "kinds":
            words += [f"--nemesis={kind}" for kind in value]
        elif isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words.append(f"--{'pause' if name == 'pause_ms' else name}={value}")
    return shlex.join(words)


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "histories")


if __name__ == "__main__":
    sys.exit(main())
