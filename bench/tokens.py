"""What a token costs a write: PUTs a second and the nodes' processor time, with proofs that are checked and without.

    python -m bench.tokens [--rounds 60] [--puts 200] [--nodes 5] [--json]

One cluster of real daemons on loopback, asked by the C load. In each round its policy is `open` for as many PUTs as it is `token`, in
turns of which comes first; every PUT has a key of its own. So both meet the same databases and the same load of the machine. Many
short rounds say more than a few long ones on a machine with other work, and ratios more than figures. The requests are made before: the client's part is not measured.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from bench.peers.asking import ask
from bench.peers.kdht_cluster import PROTOCOL
from kdht.errors import KdhtError
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until
from kdht.wire import NO_FLAGS, OFFSET, RECORD, hash_key, pack_request
from kdht.wire._shared import Flag, Op
from kdht.wire.keys import derive_access
from kdht.wire.rights import ALL_RIGHTS, EVERY_KEY, Grant, make_token, prove

MODES = "open", "token"
SECRET = "an access secret for benchmarks"
TOKEN = make_token(Grant(ALL_RIGHTS, 0, 0, 1, EVERY_KEY), derive_access(0, SECRET.encode()).key)
SETTLED = 60.0
CPUCLOCK_SCHED = 2
"""include/linux/posix-timers.h: the clock of a process's time on processors."""

Figures = dict[str, float]


@contextmanager
def running(nodes: int) -> Iterator[Cluster]:
    """`nodes` daemons on loopback that take writes from everybody, all ready."""
    tables = {"access": {"writes": "open"}, "[access.key]": {"epoch": 0, "secret": SECRET}}
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
    other = next(each for each in MODES if each != mode)
    for node in cluster.nodes:
        text = node.config.read_text()
        node.config.write_text(text.replace(f'writes = "{other}"', f'writes = "{mode}"'))
        node.call("reload")
        assert node.status()["access"]["writes"] == mode


def requests(mode: str, names: Sequence[str], value: bytes) -> list[bytes]:
    """A PUT for each name, with a proof as a client with a token makes it."""
    body, made = RECORD.pack(0, 0, 0) + value, []
    for name in names:
        key, proof = hash_key(name), b""
        if mode == "token":
            seq = time.time_ns() // 1000
            proof = prove(TOKEN.key, TOKEN.grant.pack(), Op.PUT, key, key, seq, body)
        message = pack_request(Op.PUT, key, 0, body + proof)
        message[OFFSET["flags"]] = Flag.PROVEN if proof else NO_FLAGS
        made.append(bytes(message))
    return made


def puts(cluster: Cluster, mode: str, names: Sequence[str], value: bytes, outstanding: int) -> Figures:
    """What these PUTs took."""
    set_writes(cluster, mode)
    made, pids = requests(mode, names, value), [node.pid for node in cluster.nodes]
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
    """By round, by mode."""
    value, found = random.Random(1).randbytes(value_bytes), []
    with running(nodes) as cluster:
        # The first round is left out: the databases are new then.
        for number in range(-1, rounds):
            order = MODES if number % 2 else MODES[::-1]
            names = {mode: [f"{number} {mode} {each}" for each in range(puts_each)] for mode in MODES}
            one = {mode: puts(cluster, mode, names[mode], value, outstanding) for mode in order}
            if number >= 0:
                found.append(one)
    return found


def summary(found: Sequence[Mapping[str, Figures]]) -> dict[str, Any]:
    """Medians by mode, and the median of the rounds' ratios."""
    medians = {
        mode: {name: median(each[mode][name] for each in found) for name in found[0][mode]} for mode in MODES
    }
    rate = sorted(each["token"]["puts_per_second"] / each["open"]["puts_per_second"] for each in found)
    cpu = sorted(each["open"]["cpu_us"] / each["token"]["cpu_us"] for each in found)
    return {
        **medians,
        "failed": sum(each[mode]["failed"] for each in found for mode in MODES),
        "rate_ratio": median(rate),
        "rate_ratios": rate,
        "cpu_ratio": median(cpu),
        "cpu_ratios": cpu,
    }


def shown(told: Mapping[str, Any]) -> Table:
    table = Table(
        "PUTs",
        "a second",
        "CPU of all nodes, µs",
        "p50 ms",
        title=f"token by open: {told['rate_ratio']:.3f} of the rate, {told['cpu_ratio']:.3f} by processor time",
    )
    for mode in MODES:
        row = told[mode]
        table.add_row(mode, f"{row['puts_per_second']:,.0f}", f"{row['cpu_us']:,.0f}", f"{row['p50_ms']:.2f}")
    return table


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=60, show_default=True)
@click.option(
    "--puts",
    "puts_each",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Of a mode in a round.",
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
