"""What a token costs a write: PUTs a second and the nodes' processor time, with proofs that are checked and without.

    python -m bench.tokens [--rounds 60] [--puts 200] [--nodes 5] [--json]

One cluster of real daemons on loopback, asked by the C load. In each round it takes the same number of PUTs in three ways, in an order
that is drawn. "versionless": the policy is `open`, and the node chooses the version. "open": the client chooses the version, as
the Python client always does. "token": the same with a proof, which the policy asks for. Every PUT has a key of its own. So all ways
meet the same databases and the same other work of the machine: ratios say more than figures, and many short rounds more than a few
long ones. The requests are made before: the client's part is not measured.
"""

import json
import random
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from bench.peers.asking import ask
from bench.peers.kdht_cluster import PROTOCOL
from kdht.errors import KdhtError
from kdht.lab.cluster import Cluster, Settings, places_on_loopback
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until
from kdht.wire import NO_FLAGS, OFFSET, RECORD, hash_key, pack_request
from kdht.wire._shared import Flag, Op
from kdht.wire.keys import derive_access
from kdht.wire.rights import ALL_RIGHTS, EVERY_KEY, Grant, make_token, prove

WAYS = {"versionless": "open", "open": "open", "token": "token"}
"""Ways to write, and the policy for each."""
SECRET = "an access secret for benchmarks"
TOKEN = make_token(Grant(ALL_RIGHTS, 0, 0, 1, EVERY_KEY), derive_access(0, SECRET.encode()).key)
SETTLED = 60.0
CPUCLOCK_SCHED = 2
"""include/linux/posix-timers.h: the clock of a process's time on processors."""

Figures = dict[str, float]


@contextmanager
def running(nodes: int) -> Iterator[Cluster]:
    """`nodes` daemons on loopback that take writes from everybody, all ready."""
    tables: Settings = {"access": {"writes": "open"}, "[access.key]": {"epoch": 0, "secret": SECRET}}
    with tempfile.TemporaryDirectory(prefix="kdht-bench-") as directory:
        places = places_on_loopback(nodes)
        with Cluster(
            places, Path(directory), datapath="socket", settings=tables, ids=spread(nodes)
        ) as cluster:
            for node in cluster.nodes:
                wait_until(lambda node=node: node.status()["ready"], f"{node.name} to be ready", SETTLED)  # type: ignore[misc]
            yield cluster


def set_writes(cluster: Cluster, mode: str) -> None:
    """The same policy at all nodes, from now on."""
    for node in cluster.nodes:
        text = node.config.read_text()
        node.config.write_text(re.sub(r'^writes = "\w+"', f'writes = "{mode}"', text, flags=re.MULTILINE))
        node.call("reload")
        assert node.status()["access"]["writes"] == mode


def requests(way: str, names: Sequence[str], value: bytes) -> list[bytes]:
    """A PUT for each name, with a proof as a client with a token makes it."""
    made = []
    for name in names:
        key, version, proof = hash_key(name), time.time_ns() // 1000, b""
        # A proof has the version in itself.
        body = RECORD.pack(version if way == "open" else 0, 0, 0) + value
        if way == "token":
            proof = prove(TOKEN.key, TOKEN.grant.pack(), Op.PUT, key, key, version, body)
        message = pack_request(Op.PUT, key, 0, body + proof)
        message[OFFSET["flags"]] = Flag.PROVEN if proof else NO_FLAGS
        made.append(bytes(message))
    return made


def puts(cluster: Cluster, way: str, names: Sequence[str], value: bytes, outstanding: int) -> Figures:
    """What these PUTs took."""
    set_writes(cluster, WAYS[way])
    made, pids = requests(way, names, value), [node.pid for node in cluster.nodes]
    before = cpu_seconds(pids)
    done = ask([str(node.address) for node in cluster.nodes], made, [], PROTOCOL, outstanding)
    spent = cpu_seconds(pids) - before
    return {
        "puts_per_second": done.done / done.seconds,
        "cpu_us": 1e6 * spent / max(done.done, 1),
        "p50_ms": done.p50,
        "failed": float(done.failed),
    }


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of these processes so far, by the kernel's clock of each: a round is too short for the ticks in /proc."""
    return sum(time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED) for pid in pids)


def measure(
    *, rounds: int, puts_each: int, nodes: int, value_bytes: int, outstanding: int
) -> list[dict[str, Figures]]:
    """By round, by way."""
    rng = random.Random(1)
    value, found = rng.randbytes(value_bytes), []
    with running(nodes) as cluster:
        # The first round is left out: the databases are new then.
        for number in range(-1, rounds):
            order = rng.sample(sorted(WAYS), len(WAYS))
            names = {way: [f"{number} {way} {each}" for each in range(puts_each)] for way in WAYS}
            one = {way: puts(cluster, way, names[way], value, outstanding) for way in order}
            if number >= 0:
                found.append(one)
    return found


def summary(found: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    """By way: medians, and as `rate` and `cpu` the median of the rounds' ratios to `open`, more than 1 where it is better."""
    told: dict[str, Figures] = {}
    for way in WAYS:
        row = {name: median(each[way][name] for each in found) for name in found[0][way]}
        rates = (each[way]["puts_per_second"] / each["open"]["puts_per_second"] for each in found)
        times = (each["open"]["cpu_us"] / each[way]["cpu_us"] for each in found)
        failed = sum(each[way]["failed"] for each in found)
        told[way] = {**row, "rate": median(rates), "cpu": median(times), "failed": failed}
    return told


def shown(told: Mapping[str, Figures]) -> Table:
    table = Table("PUTs", "a second", "of open", "CPU of all nodes, µs", "of open", "p50 ms", "failed")
    for way, row in told.items():
        table.add_row(
            way,
            f"{row['puts_per_second']:,.0f}",
            f"{row['rate']:.3f}",
            f"{row['cpu_us']:,.0f}",
            f"{row['cpu']:.3f}",
            f"{row['p50_ms']:.2f}",
            f"{row['failed']:.0f}",
        )
    return table


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=60, show_default=True)
@click.option(
    "--puts",
    "puts_each",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Of a way in a round.",
)
@click.option("--nodes", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--value-bytes", type=click.IntRange(0, 1040), default=100, show_default=True)
@click.option(
    "--outstanding", type=click.IntRange(1), default=32, show_default=True, help="Requests at once."
)
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON on standard output.")
def command(as_json: bool, **plan: int) -> None:
    try:
        rounds = measure(**plan)
    except KdhtError as error:
        raise click.ClickException(str(error)) from None
    told = summary(rounds)
    if as_json:
        click.echo(json.dumps({"machine": machine(), **plan, **told}, indent=2))
    else:
        Console().print(shown(told))


if __name__ == "__main__":
    command(prog_name="python -m bench.tokens")
