"""The DNS face beside knot and dnsmasq, with the same names, asked by dnsperf.

    python -m bench.dns_face [--names N] [--seconds S] [--rounds N] [--json]

Each server is asked alone, on loopback, in turn: one A record for each name, from a file with the names in a fixed random order. "hot" is
one name of them, as many clients of one service ask. Medians of the rounds. CPU is the server's; of kdht, the face's and its
node's. First what the parts of the face cost, without sockets.
"""

import asyncio
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import click
import dns.exception
import dns.message
import dns.name
import dns.query
from rich.console import Console
from rich.table import Table

from kdht.client import AsyncClient
from kdht.faces.dns.answers import Answerer, Question, Zone
from kdht.faces.dns.cookies import answer_to
from kdht.faces.dns.lookups import Lookups
from kdht.faces.dns.records import entry_of_member
from kdht.faces.dns.service import DnsService
from kdht.faces.rates import Rates
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address
from kdht.wire.endpoints import Endpoint
from kdht.wire.sets import Member

HOST = "127.0.0.1"
PORTS = {"kdht": 5301, "knot": 5302, "dnsmasq": 5303}
ZONE = "kdht."
TTL = 86400
CLIENTS, OUTSTANDING = 4, 64
SEED = 7
PARTS_RUNS = 5000

Pids = Callable[[], list[int]]


class Load(NamedTuple):
    """Of one run of dnsperf."""

    queries_s: float
    latency_ms: float
    """Mean."""
    lost: int
    cpu_us: float
    """Microseconds of the server's processors for each query."""


def names_of(count: int) -> dict[str, str]:
    """Each with its address."""
    return {f"service-{number}": f"10.1.{number >> 8}.{number & 255}" for number in range(count)}


# --- Servers -----------------------------------------------------------------------------------


@contextmanager
def kdht(names: dict[str, str], home: Path) -> Iterator[Pids]:
    faces = {"dns": {"listen": [f"{HOST}:{PORTS['kdht']}"], "rate": 0}}
    with Cluster(places_on_loopback(1), home, datapath="socket", settings=faces) as cluster:
        node = cluster.nodes[0]
        asyncio.run(_announce(str(node.address), names))
        yield lambda: [node.pid, *_children(node.pid)]


async def _announce(node: str, names: dict[str, str]) -> None:
    async with AsyncClient(node) as client:
        waiting = iter(names.items())

        async def run() -> None:
            for name, host in waiting:
                await client.announce_once(name, Endpoint.of(f"{host}:80").pack(), ttl=TTL)

        await asyncio.gather(*(run() for _ in range(32)))


@contextmanager
def knot(names: dict[str, str], home: Path) -> Iterator[Pids]:
    records = "".join(f"{name} A {host}\n" for name, host in names.items())
    (home / "zone").write_text(
        f"$ORIGIN {ZONE}\n$TTL 5\n@ SOA ns hostmaster 1 3600 600 86400 5\n@ NS ns\nns A {HOST}\n{records}"
    )
    (home / "conf").write_text(
        f"server:\n  rundir: {home}\n  listen: {HOST}@{PORTS['knot']}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
        f"database:\n  storage: {home}\nlog:\n  - target: stderr\n    any: error\n"
        f"zone:\n  - domain: {ZONE}\n    file: {home}/zone\n"
    )
    with _started(["knotd", "-c", str(home / "conf")], home) as pid:
        yield lambda: [pid]


@contextmanager
def dnsmasq(names: dict[str, str], home: Path) -> Iterator[Pids]:
    (home / "hosts").write_text("".join(f"{host} {name}.{ZONE}\n" for name, host in names.items()))
    options = "--no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --user=root"
    command = [
        "dnsmasq",
        *options.split(),
        f"--addn-hosts={home}/hosts",
        f"--listen-address={HOST}",
        "--local-ttl=5",
    ]
    with _started(
        [*command, f"--port={PORTS['dnsmasq']}", "--pid-file=", f"--local=/{ZONE.rstrip('.')}/"], home
    ) as pid:
        yield lambda: [pid]


SERVERS = {"kdht": kdht, "knot": knot, "dnsmasq": dnsmasq}
PROGRAMS = {"knot": "knotd", "dnsmasq": "dnsmasq"}


@contextmanager
def _started(command: Sequence[str], home: Path) -> Iterator[int]:
    with (home / "log").open("w") as log:
        process = subprocess.Popen([_which(command[0]) or command[0], *command[1:]], stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _children(pid: int) -> list[int]:
    return [
        int(each)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for each in path.read_text().split()
    ]


def _cpu(pids: Sequence[int]) -> float:
    """Seconds of processor that they have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _serves(port: int, name: str) -> bool:
    try:
        reply = dns.query.udp(dns.message.make_query(f"{name}.{ZONE}", "A"), HOST, port=port, timeout=1)
    except (dns.exception.DNSException, OSError):
        return False
    return bool(reply.answer)


# --- The load ------------------------------------------------------------------------------------


def load(port: int, queries: Path, seconds: float, pids: Pids) -> Load:
    before = _cpu(pids())
    command = [
        "dnsperf",
        "-s",
        HOST,
        "-p",
        str(port),
        "-d",
        str(queries),
        "-l",
        str(seconds),
        "-c",
        str(CLIENTS),
    ]
    done = subprocess.run(
        [*command, "-T", "1", "-q", str(OUTSTANDING)], capture_output=True, text=True, check=True
    )
    spent = _cpu(pids()) - before
    return Load(
        _figure(done.stdout, "Queries per second"),
        1e3 * _figure(done.stdout, r"Average Latency \(s\)"),
        int(_figure(done.stdout, "Queries lost")),
        1e6 * spent / max(_figure(done.stdout, "Queries completed"), 1),
    )


def _figure(text: str, name: str) -> float:
    found = re.search(rf"{name}:\s+([\d.]+)", text)
    if found is None:
        raise click.ClickException(f"dnsperf says nothing of {name}: {text[-300:]}")
    return float(found[1])


def median(loads: Sequence[Load]) -> dict[str, float]:
    return {field: statistics.median(getattr(each, field) for each in loads) for field in Load._fields}


def compare(names: dict[str, str], seconds: float, rounds: int) -> dict[str, Any]:
    """By server and load."""
    kinds = [name for name in SERVERS if name not in PROGRAMS or _which(PROGRAMS[name])]
    found: dict[tuple[str, str], list[Load]] = {}
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdht-bench-dns-")))
        order = random.Random(SEED).sample(sorted(names), len(names))
        loads = {"hot": order[:1], "all": order}
        for kind, asked in loads.items():
            (top / kind).write_text("".join(f"{name}.{ZONE} A\n" for name in asked))
        running = {}
        for name in kinds:
            home = top / name
            home.mkdir()
            running[name] = stack.enter_context(SERVERS[name](names, home))
            wait_until(lambda name=name: _serves(PORTS[name], order[0]), f"{name} to serve", 60.0)  # type: ignore[misc]
        for _ in range(rounds):
            for kind in loads:
                for name in kinds:
                    found.setdefault((name, kind), []).append(
                        load(PORTS[name], top / kind, seconds, running[name])
                    )
    return {name: {kind: median(found[name, kind]) for kind in loads} for name in kinds}


# --- The parts -----------------------------------------------------------------------------------


def parts() -> dict[str, float]:
    """Microseconds of one processor."""
    origin = dns.name.from_text(ZONE)
    zone = Zone(origin=origin, nameservers=[], addresses=[HOST], ttl=5, negative_ttl=5)
    answerer = Answerer(zone, [bytes(16)], lambda asker, now: True, lambda event: None)
    now, asker = UnixTime(time.time()), Address.of("192.0.2.7", 40000)
    web = [entry_of_member(Member(n, 20, Endpoint.of(f"10.0.0.{n}:80").pack()), now) for n in range(1, 4)]
    query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    service = dns.message.make_query(f"web.{ZONE}", "SRV").to_wire()
    asked, srv = (answerer.judge(data, asker, now, stream=False) for data in (query, service))
    assert isinstance(asked, Question)
    assert isinstance(srv, Question)
    lookups = Lookups(cast(Any, None), 5, lambda: now, lambda: SteadyTime(0.0), lambda event: None)
    face = DnsService(
        answerer,
        lookups,
        Rates(0),
        lambda asker, now: True,
        lambda: now,
        lambda: SteadyTime(0.0),
        lambda event: None,
    )
    apex = dns.message.make_query(ZONE, "SOA").to_wire()
    return {
        "parse_us": _each(lambda: answerer.judge(query, asker, now, stream=False)),
        "answer_a_us": _each(lambda: answerer.answer(asked, web, now, SteadyTime(0.0))),
        "answer_srv_us": _each(lambda: answerer.answer(srv, web, now, SteadyTime(0.0))),
        "repeated_us": _each(lambda: face.at_once(apex, asker, stream=False)),
        "cookie_us": _each(lambda: answer_to(bytes(24), [bytes(16)], asker, now)),
    }


def _each(step: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        for _ in range(PARTS_RUNS):
            step()
        best = min(best, time.process_time() - begun)
    return 1e6 * best / PARTS_RUNS


def report(found: dict[str, Any]) -> Table:
    table = Table("server", box=None)
    for heading in ("load", "queries/s", "mean ms", "lost", "CPU a query, µs"):
        table.add_column(heading, justify="right")
    for name, loads in found["servers"].items():
        for kind, each in loads.items():
            figures = (
                f"{each['queries_s']:,.0f}",
                f"{each['latency_ms']:.2f}",
                f"{each['lost']:.0f}",
                f"{each['cpu_us']:.1f}",
            )
            table.add_row(name, kind, *figures)
    return table


@click.command(help=__doc__)
@click.option("--names", default=1000, show_default=True, type=click.IntRange(2, 60000))
@click.option("--seconds", default=5.0, show_default=True, help="Of each run of dnsperf.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(names: int, seconds: float, rounds: int, as_json: bool) -> None:
    if not _which("dnsperf"):
        raise click.ClickException("dnsperf is missing (Debian: apt-get install dnsperf knot dnsmasq-base)")
    found = {"names": names, "parts": parts(), "servers": compare(names_of(names), seconds, rounds)}
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(
            ", ".join(f"{name} {value:.1f}" for name, value in found["parts"].items()), report(found)
        )


if __name__ == "__main__":
    main()
