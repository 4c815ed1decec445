"""The simulator: `python -m bench sim [COMMAND]`, or `make bench ARGS="sim ..."`.

Everything is seeded: the same seed gives the same figures, whatever the machine. Each command
keeps its figures in bench/results and prints a table, or with --json one JSON object.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from bench.machine import RESULTS
from bench.sim import churn as churning
from bench.sim import deaths as dying
from bench.sim import idle as idling
from bench.sim import report
from bench.sim import shares as sharing
from bench.sim import static as overlays
from bench.sim.figures import save
from bench.sim.plots import draw
from kdht.wire._shared import K

STANDARD = ("static", "idle", "deaths", "churn")
"""The simulations of a run without a command, in order, drawn at the end."""


@dataclass(frozen=True)
class Place:
    """Where figures are kept, and whether one command's JSON is to be printed by itself."""

    directory: Path
    alone: bool


def numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """Whole numbers from 1 on, with commas between them."""
    try:
        found = [int(part.replace("_", "")) for part in value.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise click.BadParameter(f"{value!r} is not numbers with commas between, such as 1000,10000")
    return found


seed_option = click.option("--seed", default=1, show_default=True, help="Of every chance.")
json_option = click.option("--json", "as_json", is_flag=True, help="Figures as JSON on standard output.")
loss_option = click.option(
    "--loss", default=0.0, show_default=True, type=click.FloatRange(0, 0.9), help="Part of datagrams lost."
)
rest_option = click.option(
    "--rest",
    default=450.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Virtual seconds after the last node joined. Distant contacts are probed every 300.",
)


def measure(
    name: str,
    doing: str,
    items: Sequence[Any],
    steps: Callable[[Any], int],
    run: Callable[[Any, Callable[[int], None]], dict[str, Any]],
    as_json: bool,
) -> dict[str, Any]:
    """Run them one after the other, show the figures, and keep them after each; what was kept."""
    place = click.get_current_context().find_root().obj
    runs: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for item in items:
            task = progress.add_task(f"{doing} {item}", total=steps(item))
            runs.append(run(item, partial(progress.advance, task)))
            result = save(place.directory, name, runs)
    Console(stderr=as_json).print(*report.TABLES[name](runs), sep="\n")
    if as_json and place.alone:
        click.echo(json.dumps(result, indent=2))
    return result


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Where figures and plots are kept.  [default: bench/results]",
)
@json_option
@click.pass_context
def command(context: click.Context, results: Path, as_json: bool) -> None:
    """Simulate overlays and clusters with a virtual clock; without a COMMAND all, with their usual values."""
    context.obj = Place(results, alone=context.invoked_subcommand is not None)
    if context.obj.alone:
        return
    found = {}
    for name in STANDARD:
        each_command = command.commands[name]
        arguments = ["--json"] if as_json else []
        with each_command.make_context(name, arguments, parent=context) as each_context:
            found[name] = each_command.invoke(each_context)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    for path in draw(results):
        click.echo(path, err=as_json)


@command.command()
@click.option("--nodes", callback=numbers, default="1000,10000,100000,1000000", show_default=True)
@click.option("--messages", type=click.IntRange(1), default=1_000_000, show_default=True, help="Per overlay.")
@click.option("--k", type=click.IntRange(1, K), default=K, show_default=True, help="Contacts in a bucket.")
@seed_option
@json_option
def static(nodes: list[int], messages: int, k: int, seed: int, as_json: bool) -> dict[str, Any]:
    """Hops and loads in static overlays with full tables."""

    def run(count: int, progress: Any) -> dict[str, Any]:
        return overlays.run(count, messages, seed, k, progress)

    return measure("static", "messages through", nodes, lambda count: messages, run, as_json)


@command.command()
@click.option("--nodes", callback=numbers, default="32,100,300,10000", show_default=True)
@click.option("--window", type=click.FloatRange(1), default=300.0, show_default=True, help="Virtual seconds.")
@click.option(
    "--values",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="That are kept, three times each; 0: none, and nothing is compared.",
)
@click.option(
    "--live",
    type=click.IntRange(1),
    default=idling.MOST_LIVE,
    show_default=True,
    help=f"Where there are more nodes, {idling.SAMPLE} run and the others only answer.",
)
@rest_option
@loss_option
@seed_option
@json_option
def idle(nodes: list[int], as_json: bool, **plan: Any) -> dict[str, Any]:
    """Packets a second in idle clusters."""

    def run(count: int, progress: Any) -> dict[str, Any]:
        return idling.run(count, **plan, progress=progress)

    return measure("idle", "joining", nodes, lambda count: min(count, plan["live"]), run, as_json)


@command.command()
@click.option("--nodes", callback=numbers, default="32,100", show_default=True)
@click.option("--part", type=click.FloatRange(0, 0.9), default=0.1, show_default=True, help="That dies.")
@rest_option
@loss_option
@seed_option
@json_option
def deaths(
    nodes: list[int], part: float, rest: float, loss: float, seed: int, as_json: bool
) -> dict[str, Any]:
    """How long nodes that died at once stay in tables, and lookups fail."""

    def run(count: int, progress: Any) -> dict[str, Any]:
        return dying.run(count, max(1, round(part * count)), rest, seed, loss, progress)

    return measure("deaths", "joining", nodes, lambda count: count, run, as_json)


@command.command()
@click.option("--nodes", type=click.IntRange(2), default=64, show_default=True, help="Living and away.")
@click.option(
    "--sessions",
    callback=numbers,
    default="300,1200,3600",
    show_default=True,
    help="Mean lives, virtual seconds; each is a run.",
)
@click.option("--away", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Mean absence.")
@click.option("--duration", type=click.FloatRange(10), default=900.0, show_default=True)
@click.option("--values", type=click.IntRange(0), default=500, show_default=True)
@click.option("--gets", type=click.FloatRange(0), default=5.0, show_default=True, help="A second, in all.")
@click.option("--puts", type=click.FloatRange(0), default=1.0, show_default=True, help="A second, in all.")
@click.option("--replicas", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--acks", type=click.IntRange(1, 16), default=2, show_default=True)
@loss_option
@seed_option
@json_option
def churn(nodes: int, sessions: list[int], as_json: bool, **plan: Any) -> dict[str, Any]:
    """Nodes that come and go for exponential times, under requests."""
    if plan["acks"] > plan["replicas"]:
        raise click.UsageError(f"--acks {plan['acks']} is more than --replicas {plan['replicas']}")

    def run(session: int, progress: Any) -> dict[str, Any]:
        return churning.run(churning.Plan(nodes=nodes, session=float(session), **plan), progress)

    return measure("churn", "sessions of", sessions, lambda session: nodes, run, as_json)


@command.command()
@click.option("--nodes", callback=numbers, default="3,7,12,24,50,100,300,1000", show_default=True)
@click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each, from --seed on."
)
@click.option("--replicas", type=click.IntRange(1, 16), default=3, show_default=True)
@seed_option
@json_option
def shares(nodes: list[int], seeds: int, replicas: int, seed: int, as_json: bool) -> dict[str, Any]:
    """How much the greatest owner and keeper have, where IDs are by chance and where newcomers chose them."""

    def run(count: int, progress: Any) -> dict[str, Any]:
        return sharing.run(count, range(seed, seed + seeds), replicas, progress)

    return measure("shares", "nodes:", nodes, lambda count: seeds * len(sharing.WAYS), run, as_json)


@command.command()
@click.pass_obj
def plot(place: Place) -> None:
    """Draw the figures that are kept, as SVG beside them."""
    drawn = draw(place.directory)
    if not drawn:
        raise click.ClickException(f"nothing is kept in {place.directory}: run {', '.join(STANDARD)} first")
    for path in drawn:
        click.echo(path)


if __name__ == "__main__":
    command(prog_name="python -m bench sim")
