"""Clusters of real daemons in namespaces: `python -m bench daemons [COMMAND]`. Needs root.

Each command keeps its figures in bench/results and prints a table, or with --json one JSON object.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any

import click
from rich.console import Console

from bench.daemons import hot as heating
from bench.daemons import idle as idling
from bench.daemons import joins as joining
from bench.daemons import large as sending
from bench.daemons import report
from bench.daemons import restart as restarting
from bench.daemons import survival as surviving
from bench.machine import RESULTS, machine
from kdht.errors import KdhtError

STANDARD = ("survival", "idle", "restart", "large")
"""The measurements of a run without a command, in order."""

json_option = click.option("--json", "as_json", is_flag=True, help="Figures as JSON on standard output.")
datapath_option = click.option(
    "--datapath", type=click.Choice(["socket", "nfqueue", "ebpf"]), default="socket", show_default=True
)
count = click.IntRange(1)


Command = Callable[..., Any]


def nodes_option(default: int) -> Callable[[Command], Command]:
    return click.option("--nodes", type=click.IntRange(2, 200), default=default, show_default=True)


def measure(name: str, runs: Iterable[Callable[[], dict[str, Any]]], as_json: bool) -> dict[str, Any]:
    """Run them in order, keep the figures and show them. Returns the kept file."""
    done: list[dict[str, Any]] = []
    try:
        done.extend(each() for each in runs)
    except KdhtError as error:
        raise click.ClickException(str(error)) from None
    result = {"daemons": name, "machine": machine(), "runs": done}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"daemons-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    Console(stderr=as_json).print(*report.TABLES[name](done), sep="\n")
    if as_json and click.get_current_context().find_root().obj:
        click.echo(json.dumps(result, indent=2))
    return result


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Measure clusters of real daemons; without a COMMAND all, with their usual values."""
    context.obj = context.invoked_subcommand is not None
    if context.obj:
        return
    found = {}
    for name in STANDARD:
        each = command.commands[name]
        with each.make_context(name, ["--json"] if as_json else [], parent=context) as each_context:
            found[name] = each.invoke(each_context)
    if as_json:
        click.echo(json.dumps(found, indent=2))


@command.command()
@nodes_option(32)
@click.option("--dying", type=count, default=8, show_default=True)
@click.option("--values", type=count, default=500, show_default=True)
@click.option("--replicas", type=click.IntRange(1, 16), multiple=True, default=(8, 3), show_default=True)
@click.option("--outstanding", type=count, default=8, show_default=True, help="Requests in flight.")
@click.option(
    "--how", type=click.Choice(surviving.HOW), multiple=True, default=surviving.HOW, show_default=True
)
@click.option(
    "--work", type=click.Choice(surviving.WORK), multiple=True, default=surviving.WORK, show_default=True
)
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3), show_default=True)
@datapath_option
@json_option
def survival(
    replicas: tuple[int, ...],
    how: tuple[str, ...],
    work: tuple[str, ...],
    seeds: tuple[int, ...],
    as_json: bool,
    **plan: Any,
) -> dict[str, Any]:
    """Nodes die at once: reads, and writes, the moment after."""
    if plan["dying"] >= plan["nodes"]:
        raise click.UsageError("somebody has to stay: --dying is less than --nodes")
    runs = (
        partial(surviving.run, **plan, replicas=kept, how=death, work=what, seed=seed)
        for kept, death, what, seed in product(replicas, how, work, seeds)
    )
    return measure("survival", runs, as_json)


@command.command()
@nodes_option(32)
@click.option("--values", type=count, default=500, show_default=True)
@click.option("--rest", type=click.FloatRange(0), default=60.0, show_default=True, help="Seconds before.")
@click.option("--window", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds.")
@datapath_option
@json_option
def idle(as_json: bool, **plan: Any) -> dict[str, Any]:
    """Datagrams a second in an idle cluster."""
    return measure("idle", [lambda: idling.run(**plan)], as_json)


@command.command()
@nodes_option(16)
@click.option("--records", type=count, default=10_000, show_default=True, help="On each node.")
@click.option("--rest", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds before.")
@click.option("--window", type=click.FloatRange(1), default=20.0, show_default=True, help="Of idle traffic.")
@click.option(
    "--after", type=click.FloatRange(1), default=90.0, show_default=True, help="Seconds of the curve."
)
@datapath_option
@json_option
def restart(as_json: bool, **plan: Any) -> dict[str, Any]:
    """All nodes die, and start again at once: readiness, and the curve of their traffic."""
    return measure("restart", [lambda: restarting.run(**plan)], as_json)


@command.command()
@nodes_option(8)
@click.option("--mebibytes", type=click.IntRange(1, 1024), default=64, show_default=True)
@click.option(
    "--loopback",
    is_flag=True,
    help="Nodes and client on this host's loopback, without hosts of their own and without loss.",
)
@click.option(
    "--permille", type=click.IntRange(0, 500), default=10, show_default=True, help="Lost datagrams."
)
@click.option("--seed", type=int, default=1, show_default=True)
@datapath_option
@json_option
def large(as_json: bool, **plan: Any) -> dict[str, Any]:
    """A large value from a file and into one, with loss."""
    return measure("large", [lambda: sending.run(**plan)], as_json)


@command.command()
@nodes_option(12)
@click.option("--replicas", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option(
    "--hot", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="The key's part of the reads."
)
@click.option(
    "--cpu",
    type=click.FloatRange(0, 1),
    default=0.06,
    show_default=True,
    help="Of a processor, for each node; 0: no limit.",
)
@click.option(
    "--outstanding", type=count, default=64, show_default=True, help="Requests at once: a power of two."
)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Of each way.")
@click.option("--seed", type=int, default=1, show_default=True)
@datapath_option
@json_option
def hot(as_json: bool, **plan: Any) -> dict[str, Any]:
    """One key with nearly all reads: its owner alone, and its replicas together."""
    return measure("hot", [lambda: heating.run(heating.Plan(**plan))], as_json)


@command.command()
@click.option("--how", type=click.Choice(joining.HOW), default="together", show_default=True)
@click.option("--old", type=click.IntRange(1, 100), default=3, show_default=True, help="Nodes at first.")
@click.option("--new", type=click.IntRange(1, 100), default=9, show_default=True, help="Nodes that join.")
@click.option("--values", type=count, default=1500, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(1), default=200.0, show_default=True, help="Operations a second."
)
@click.option("--replicas", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@datapath_option
@json_option
def joins(as_json: bool, **plan: Any) -> dict[str, Any]:
    """Nodes join under load: false NOT_FOUND, overwritten values, and the time until they are ready."""
    if plan["how"] == "replace" and plan["new"] > plan["old"]:
        raise click.UsageError("each newcomer replaces an old node: --new is at most --old")
    return measure("joins", [lambda: joining.run(joining.Plan(**plan))], as_json)


if __name__ == "__main__":
    command(prog_name="python -m bench daemons")
