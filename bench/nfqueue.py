"""Verdicts per second on one core: the nfqueue datapath, a C program, and a Python callback.

    python bench/nfqueue.py [--runs N] [--packets N] [--body BYTES] [--json]

    source eth1 --- eth1 node eth2 --- eth2 sink        three network namespaces; needs root

All three take the same members' requests from the same queue, behind the same ruleset, and send
them on to the sink. kdht does its full work: every check and the header's tag, the next hop in
a table that 10,000 contacts were offered to, header and checksums. The others (bench/c/nfqueue_rewrite.c,
bench/nfqueue_callback.py) put fixed addresses in and ask nothing.

A run stops the program (SIGSTOP), fills its queue, lets it go on, and takes the time until the
queue is empty, so that no generator disturbs it; the sink must then have every packet. Runs
alternate between the programs, each has a processor of its own; the medians count. "per second" is
by the clock, "per CPU second" by the program's own processor time, the kernel's part of it included.
"""

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from kdht._routing import Core, common_bits
from kdht.datapath.host.ruleset import MARK, Ruleset, RulesetOptions
from kdht.datapath.host.sysctl import Sysctls
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions
from kdht.errors import KdhtError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact, Message, seal
from kdht.wire._shared import HEADER_LEN, HOP_LIMIT, ID_LEN, PORT, K, Op
from kdht.wire.keys import derive

HERE = Path(__file__).parent
KEY = derive(1, b"a secret for benchmarks")
CONTACTS = 10_000
MAX_LEN = 65536
SOURCE, NODE, OUT, SINK = "10.60.1.2", "10.60.1.1", "10.60.2.1", "10.60.2.2"
INTERFACES = ("eth1", "eth2")
LOOK = 0.0003
"""Seconds between two looks at the queue."""
COUNT_AND_DROP = f"""
table inet sink {{
    counter arrived {{ }}
    chain prerouting {{
        type filter hook prerouting priority -400; policy accept;
        ip saddr {OUT} udp dport {PORT} counter name arrived drop
    }}
}}
"""


class Run(NamedTuple):
    """One drained queue: packets, seconds by the clock, seconds of the program's CPU time."""

    packets: int
    seconds: float
    cpu: float


class Stage:
    """The three namespaces and the packets."""

    def __init__(self, lab: Lab, packets: int, body: int) -> None:
        self.source, self.node, self.sink = (lab.host(name) for name in ("source", "node", "sink"))
        lab.link(
            self.source, self.node, "eth1", addresses={"source": [f"{SOURCE}/24"], "node": [f"{NODE}/24"]}
        )
        lab.link(self.node, self.sink, "eth2", addresses={"node": [f"{OUT}/24"], "sink": [f"{SINK}/24"]})
        self.sink.nft(COUNT_AND_DROP)
        chance = random.Random(1)
        self.messages = [
            Message(
                op=Op.GET,
                key=b"\x80" + chance.randbytes(ID_LEN - 1),
                request_id=number,
                body=chance.randbytes(body),
                hops=HOP_LIMIT,
                client=Address.of(SOURCE, 4000),
                entry=Address.of(SOURCE, PORT),
            ).pack()
            for number in range(packets)
        ]

    def fill(self) -> None:
        """Send every message, sealed now, and wait until all lie in the queue."""
        now = int(time.time())
        for message in self.messages:
            seal(message, KEY, now)
        with self.source.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((NODE, PORT))
            for message in self.messages:
                sender.send(message)
        wait_until(lambda: self.waiting() == len(self.messages), "the queue to be full")

    def waiting(self) -> int:
        queues = self.node.queues()
        return queues[0]["waiting"] if queues else 0

    def drain(self, pid: int) -> Run:
        """Let the program go on, and take its time. Raises KdhtError if a packet is lost."""
        arrived = self.sink.counters()["arrived"]
        cpu, begun = cpu_time(pid), time.perf_counter()
        os.kill(pid, signal.SIGCONT)
        with self.node.enter():
            path = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
            while path.read_text().split()[2] != "0":
                time.sleep(LOOK)
        seconds, cpu = time.perf_counter() - begun, cpu_time(pid) - cpu
        wait_until(
            lambda: self.sink.counters()["arrived"] >= arrived + len(self.messages), "the last packets"
        )
        return Run(len(self.messages), seconds, cpu)

    def measure(self, pid: int, rounds: int) -> list[Run]:
        """The first round warms up and does not count."""
        pin(pid)
        runs = []
        for _ in range(rounds + 1):
            os.kill(pid, signal.SIGSTOP)
            try:
                self.fill()
            finally:
                runs.append(self.drain(pid))
        return runs[1:]


def cpu_time(pid: int) -> float:
    """Seconds of CPU time of a process with all its threads: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def pin(pid: int) -> None:
    """All its threads to the last processor, this program to the others."""
    cpus = sorted(os.sched_getaffinity(pid))
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cpus[-1:])
    os.sched_setaffinity(0, cpus[:-1] or cpus)


def configured() -> Core:
    """A core with a table from CONTACTS random contacts. All listen at the sink."""
    core, self_id, chance = Core(), bytes(ID_LEN), random.Random(2)
    core.configure(
        self_id=self_id,
        port=PORT,
        own=[Address.of(each, 0).ip for each in (NODE, OUT)],
        source4=Address.of(OUT, 0).ip,
        source6=None,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
    )
    buckets: dict[int, list[Contact]] = {}
    for _ in range(CONTACTS):
        contact = Contact(chance.randbytes(ID_LEN), *Address.of(SINK, PORT))
        bucket = buckets.setdefault(common_bits(self_id, contact.id), [])
        if len(bucket) < K:
            bucket.append(contact)
    for index, contacts in buckets.items():
        core.set_bucket(index, contacts)
    return core


def options(state: Path) -> NfqueueOptions:
    return NfqueueOptions(
        addresses=(Address.of(NODE, PORT), Address.of(OUT, PORT)),
        interfaces=INTERFACES,
        max_len=MAX_LEN,
        runtime_dir=state,
    )


@contextmanager
def datapath(node: Host, core: Core, state: Path) -> Iterator[int]:
    """The nfqueue datapath as the daemon runs it; its worker."""
    path = NfqueueDatapath(core, options(state))
    with node.enter():
        path.start()
        try:
            yield int(str(path.status()["worker"]))
        finally:
            path.stop()


@contextmanager
def program(node: Host, command: list[str], state: Path) -> Iterator[int]:
    """Another program on the queue, behind the same ruleset and sysctls."""
    wanted = options(state)
    with node.enter(), ExitStack() as undo:
        sysctls = Sysctls(INTERFACES, runtime_dir=state)
        guard = sysctls.apply()
        undo.callback(sysctls.restore)
        rules = Ruleset(RulesetOptions(interfaces=INTERFACES, queue=wanted.queue, guard=guard))
        undo.callback(rules.remove)
        arguments = [wanted.first_queue, MAX_LEN, MARK, OUT, SINK]
        process = node.popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        undo.callback(process.wait)
        undo.callback(process.stdin.close)
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{command[-1]} cannot have the queue")
        rules.apply()
        yield process.pid


def compiled(directory: Path) -> Path:
    """The C program; raises SystemExit with one line if it cannot be built."""
    target = directory / "nfqueue_rewrite"
    command = ["cc", "-O3", "-pthread", "-o", target, HERE / "c/nfqueue_rewrite.c"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"nfqueue_rewrite.c cannot be compiled: {error}") from None
    return target


def measure(runs: int, packets: int, body: int) -> dict[str, list[Run]]:
    """Every program's runs; the programs take turns."""
    with Lab("bench-nfqueue") as lab, tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        stage, core = Stage(lab, packets, body), configured()
        in_c = [str(compiled(state))]
        in_python = [sys.executable, str(HERE / "nfqueue_callback.py")]
        programs: dict[str, Callable[[], object]] = {
            "C": lambda: program(stage.node, in_c, state),
            "kdht": lambda: datapath(stage.node, core, state),
            "Python": lambda: program(stage.node, in_python, state),
        }
        results: dict[str, list[Run]] = {name: [] for name in programs}
        rounds = 2
        for _ in range(-(-runs // rounds)):
            for name, start in programs.items():
                with start() as pid:
                    results[name] += stage.measure(pid, rounds)
    return results


def summary(results: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {
        name: {
            "per_second": round(statistics.median(run.packets / run.seconds for run in runs)),
            "per_cpu_second": round(statistics.median(run.packets / run.cpu for run in runs)),
        }
        for name, runs in results.items()
    }
    for rate in rates.values():
        for other in ("C", "Python"):
            for unit in ("per_second", "per_cpu_second"):
                rate[f"{unit}_of_{other}"] = round(rate[unit] / rates[other][unit], 3)
    return rates


@click.command(help=__doc__)
@click.option("--runs", default=8, show_default=True, help="Runs of each program.")
@click.option("--packets", default=30_000, show_default=True, help="Packets in the queue in each run.")
@click.option("--body", default=2, show_default=True, help="Bytes of body; the packet has 140 more.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(runs: int, packets: int, body: int, as_json: bool) -> None:
    try:
        results = measure(runs, packets, body)
    except KdhtError as error:
        raise SystemExit(str(error)) from None
    rates = summary(results)
    size = 28 + HEADER_LEN + body
    if as_json:
        print(json.dumps({"packet_bytes": size, "packets": packets, "runs": runs, "rates": rates}))
        return
    table = Table("program", title=f"Verdicts on {size}-byte packets")
    for title in ("per second", "of C", "of Python", "per CPU second", "of C", "of Python"):
        table.add_column(title, justify="right")
    for name, rate in rates.items():
        cells = [
            text
            for unit in ("per_second", "per_cpu_second")
            for text in (f"{rate[unit]:,}", f"{rate[f'{unit}_of_C']:.2f}", f"{rate[f'{unit}_of_Python']:.2f}")
        ]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
