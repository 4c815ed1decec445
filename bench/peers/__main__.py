"""kdht beside its peers.

    python -m bench.peers [--nodes 8,32] [--hosts 32] [--peer NAME]... [--rounds N] [--quick] [--no-single] [--json]
    python -m bench.peers durable [--values N] [--rounds N] [--json]
    python -m bench.peers sets [--announcements N] [--reads N] [--rounds N] [--json]

Clusters of real nodes on loopback; on hosts of their own, network namespaces, with each datapath (root); then one
node beside memcached, Redis and a bare echo, between network namespaces (root). What is missing is installed first, where
that is possible. bench/README.md has what it said of one machine.
"""

import dataclasses
import json
import os
from typing import Any

import click

from bench.peers import install, single, sites, table
from bench.peers.base import Kind, make_values
from bench.peers.durable import sets, writes
from bench.peers.kdht_cluster import Kdht
from bench.peers.measure import Plan, compare
from bench.peers.overlay import OVERLAYS

ON_LOOPBACK: tuple[Kind, ...] = (Kdht(), Kdht(direct=True), *OVERLAYS)
KINDS: tuple[Kind, ...] = (Kdht("ebpf"), Kdht("ebpf", direct=True), Kdht("nfqueue"), *ON_LOOPBACK)
QUICK = Plan(values=1000, alone=100, passes=4, rounds=1)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _tell(text: str) -> None:
    click.secho(text, dim=True, err=True)


@click.group(
    help=__doc__, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--nodes", default="1,8,32", show_default=True, help="Sizes of the clusters; empty: none.")
@click.option(
    "--hosts", default="8,32", show_default=True, help="Sizes of those on hosts of their own; empty: none."
)
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice([kind.name for kind in KINDS]), help="Only these."
)
@click.option("--values", default=Plan.values, show_default=True, help="How many values.")
@click.option("--size", default=Plan.size, show_default=True, help="Bytes of a value.")
@click.option("--rounds", default=Plan.rounds, show_default=True, help="Of which the medians count.")
@click.option("--quick", is_flag=True, help="One round, fewer values.")
@click.option("--single/--no-single", "with_single", default=True, help="One node beside its peers, too.")
@json_option
@click.pass_context
def main(
    context: click.Context,
    nodes: str,
    hosts: str,
    peers: tuple[str, ...],
    values: int,
    size: int,
    rounds: int,
    quick: bool,
    with_single: bool,
    as_json: bool,
) -> None:
    if context.invoked_subcommand is not None:
        return
    plan = dataclasses.replace(QUICK, size=size) if quick else Plan(values=values, size=size, rounds=rounds)
    kinds = [kind for kind in KINDS if not peers or kind.name in peers]
    install.install(_tell)
    found: dict[str, Any] = {
        "plan": dataclasses.asdict(plan),
        "notes": {kind.name: kind.notes for kind in kinds},
        "missing": {},
    }
    for name, sizes, where in (("clusters", nodes, sites.loopback), ("hosts", hosts, sites.hosts)):
        if where is sites.hosts and os.geteuid() != 0:
            continue
        asked = [kind for kind in kinds if where is sites.hosts or kind in ON_LOOPBACK]
        found[name], missing = compare(
            asked, list(map(int, filter(None, sizes.split(",")))), where, plan, _tell
        )
        found["missing"] |= missing
    if with_single and os.geteuid() == 0:
        found["single"], missing = single.measure(make_values(2000, size), plan.rounds, _tell)
        found["missing"] |= missing
    print(json.dumps(found, indent=2) if as_json else table.report(found))


@main.command()
@click.option(
    "--values", default=writes.Plan.values, show_default=True, help="How many, at 32 and 128 outstanding."
)
@click.option("--alone", default=writes.Plan.alone, show_default=True, help="How many one after the other.")
@click.option("--size", default=writes.Plan.size, show_default=True, help="Bytes of a value.")
@click.option("--rounds", default=writes.Plan.rounds, show_default=True, help="Of which the medians count.")
@json_option
def durable(as_json: bool, **plan: int) -> None:
    """PUTs that two disks of three have, beside etcd, PostgreSQL and Redis; reads of a majority beside etcd."""
    install.install(_tell)
    wanted = writes.Plan(**plan)
    found = {"plan": dataclasses.asdict(wanted), **writes.compare(wanted, _tell)}
    print(json.dumps(found, indent=2) if as_json else writes.report(found))


@main.command("sets")
@click.option("--announcements", default=sets.Plan.announcements, show_default=True, help="How many.")
@click.option("--reads", default=sets.Plan.reads, show_default=True, help="How many.")
@click.option("--rounds", default=sets.Plan.rounds, show_default=True, help="Of which the medians count.")
@json_option
def of_sets(as_json: bool, **plan: int) -> None:
    """Announcements, reads of sets and deaths, beside etcd, Redis and serf."""
    install.install(_tell)
    wanted = sets.Plan(**plan)
    found = {"plan": dataclasses.asdict(wanted), **sets.compare(wanted, _tell)}
    print(json.dumps(found, indent=2) if as_json else sets.report(found))


if __name__ == "__main__":
    main()
