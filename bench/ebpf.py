"""Packets per second through the XDP program, beside a bare program and nfqueue.

    python -m bench.ebpf [--runs N] [--packets N] [--json]

    source eth1 --- eth1 node                            two network namespaces; needs root

The kernel's live-frames call puts members' requests on the source's side of the link; the node
re-addresses them to the source, where an XDP program counts what arrives. Measured, in turns and
the medians of N runs: a bare program that swaps the MACs and sends back (the most that this
machine can do), kdht's program with all its work (tag, next hop in a table that 10,000 contacts
were offered to, fib look-up, header and checksums), the same for clients' requests and for
replies to relay, all with tags off, and the nfqueue datapath. Generator, program and counter share
one processor. Its time counts, so other work on the machine disturbs little.

Nanoseconds: of the program alone, more than the bare one, by the test-run call. Before each run
another program writes the frame anew, for the last run has changed it.
"""

import json
import os
import random
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import if_nametoindex
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.machine import softirq_seconds, softirq_thread
from kdht._routing import Core, common_bits
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions
from kdht.datapath.publish import Publisher
from kdht.errors import KdhtError
from kdht.lab.netns import XDP_PASS, Host, Lab
from kdht.wire import NOWHERE, Address, Contact, Message, seal
from kdht.wire._shared import HOP_LIMIT, ID_LEN, PORT, Flag, K, Op
from kdht.wire.keys import derive

HERE = Path(__file__).parent
KEY = derive(1, b"a secret for benchmarks")
CONTACTS = 10_000
SOURCE, NODE = "10.61.1.2", "10.61.1.1"
SELF = bytes(ID_LEN)
BODY = 8
KINDS = ("not ours", "local", "forward", "client", "relay")
START_LEN = 160
"""Bytes of a frame that the generator writes anew: as in bpf/bench_reflect.bpf.c."""
NANOSECOND_CALLS = 15
REPEAT = 20_000
INCLUDES = [f"-I{HERE.parent / 'include'}", "-I/usr/include/x86_64-linux-gnu"]


def compiled(directory: Path) -> str:
    """The bench's own programs; raises SystemExit with one line if they cannot be built."""
    target = directory / "bench_reflect.o"
    source = HERE.parent / "bpf/bench_reflect.bpf.c"
    command = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", *INCLUDES, "-c", source, "-o", target]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{source.name} cannot be compiled: {error}") from None
    return str(target)


def configure(publisher: Publisher, *, untagged: bool) -> None:
    publisher.configure(
        self_id=SELF,
        port=PORT,
        own=[Address.of(NODE, 0).ip],
        source4=Address.of(NODE, 0).ip,
        source6=None,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
        cookies=False,
        window=3600,
        untagged=untagged,
    )


def fill(publisher: Publisher) -> None:
    """A table from CONTACTS random contacts. All listen at the source."""
    chance = random.Random(2)
    buckets: dict[int, list[Contact]] = {}
    for _ in range(CONTACTS):
        contact = Contact(chance.randbytes(ID_LEN), *Address.of(SOURCE, PORT))
        bucket = buckets.setdefault(common_bits(SELF, contact.id), [])
        if len(bucket) < K:
            bucket.append(contact)
    for index, contacts in buckets.items():
        publisher.set_bucket(index, contacts)


def message(kind: str) -> bytearray:
    """A member's request to be forwarded or answered here, a client's, or a reply to be relayed."""
    client = Address.of(SOURCE, 4000)
    member = kind != "client"
    made = Message(
        op=Op.GET,
        key=SELF if kind == "local" else b"\x80" + bytes(ID_LEN - 1),
        request_id=1,
        flags=Flag.REPLY if kind == "relay" else Flag(0),
        body=bytes(BODY),
        hops=HOP_LIMIT if member else 0,
        client=client if member else NOWHERE,
        entry=Address.of(NODE, PORT) if member else NOWHERE,
    ).pack()
    if member:
        seal(made, KEY, int(time.time()))
    return made


def mac_of(host: Host) -> str:
    return str(json.loads(host.run(["ip", "-j", "link", "show", "eth1"]).stdout)[0]["address"])


class Stage:
    """The link, its programs, and the packets."""

    def __init__(self, lab: Lab, programs: str) -> None:
        self.source, self.node = lab.host("source"), lab.host("node")
        lab.link(
            self.source, self.node, "eth1", addresses={"source": [f"{SOURCE}/24"], "node": [f"{NODE}/24"]}
        )
        self.generate, self.restore, self.reflect, self.count = (
            _ebpf.Object(programs, name) for name in ("generate", "restore", "reflect", "count")
        )
        self.softirqs = softirq_thread(max(os.sched_getaffinity(0)))
        self.passing = _ebpf.Object(str(XDP_PASS), "xdp_pass")
        self.macs = [mac_of(host) for host in (self.node, self.source)]
        self.node.run(
            ["ip", "neigh", "add", SOURCE, "lladdr", self.macs[1], "dev", "eth1", "nud", "permanent"]
        )
        with self.source.enter():
            self.ifindex = if_nametoindex("eth1")
            _ebpf.attach(self.count.program_fd, self.ifindex, True)

    def frame(self, kind: str) -> bytes:
        from scapy.layers.inet import IP, UDP
        from scapy.layers.l2 import Ether
        from scapy.packet import Raw

        port = 4000 if kind == "client" else PORT
        there = PORT + 1 if kind == "not ours" else PORT
        payload = Raw(bytes(message("forward" if kind == "not ours" else kind)))
        ether = Ether(dst=self.macs[0], src=self.macs[1])
        return bytes(ether / IP(src=SOURCE, dst=NODE) / UDP(sport=port, dport=there) / payload)

    def alone(self, program: Any, kind: str, ifindex: int) -> float:
        """Nanoseconds of one run, with those of `restore` and of the tail call."""
        frame = self.frame(kind)
        self.restore.update("next", bytes(4), struct.pack("=I", program.program_fd))
        self.restore.update("starts", bytes(4), frame[:START_LEN])
        return min(self.restore.test_run(frame, REPEAT, ifindex)[2] for _ in range(NANOSECOND_CALLS))

    def arrived(self) -> int:
        return int(self.count.per_cpu("received", 1)[0])

    def rate(self, kind: str, packets: int) -> float:
        """Packets that came back, per second of processor time. Raises KdhtError if one in a hundred did not."""
        frame = self.frame(kind)
        self.generate.update("starts", bytes(4), frame[:START_LEN])
        before, begun = self.arrived(), self.spent()
        with self.source.enter():
            self.generate.live_frames(frame, packets, self.ifindex)
        count = self.settled(before, packets)
        if count < packets * 0.99:
            raise KdhtError(f"{packets - count} of {packets} packets did not come back")
        return count / (self.spent() - begun)

    def spent(self) -> float:
        """Processor time of this process and of the kernel's own thread for packets, in seconds."""
        return time.process_time() + softirq_seconds(self.softirqs)

    def settled(self, before: int, packets: int) -> int:
        """How many arrived, once no more do."""
        count, changed = self.arrived() - before, time.perf_counter()
        while count < packets and time.perf_counter() - changed < 0.5:
            time.sleep(0.001)
            now = self.arrived() - before
            if now != count:
                count, changed = now, time.perf_counter()
        return count

    @contextmanager
    def attached(self, program: Any) -> Iterator[None]:
        with self.node.enter():
            link = _ebpf.attach(program.program_fd, if_nametoindex("eth1"), True)
        try:
            yield
        finally:
            _ebpf.detach(link)
            os.close(link)


Runner = Callable[[int], float]


@contextmanager
def ebpf(stage: Stage, state: Path, *, untagged: bool) -> Iterator[EbpfDatapath]:
    publisher = Publisher(Core())
    configure(publisher, untagged=untagged)
    fill(publisher)
    options = EbpfOptions(node_id=os.urandom(ID_LEN), addresses=(Address.of(NODE, PORT),), runtime_dir=state)
    path = EbpfDatapath(publisher, options)
    with running(stage.node, path):
        yield path


@contextmanager
def running(host: Host, path: Any) -> Iterator[None]:
    with host.enter():
        path.start()
    try:
        yield
    finally:
        with host.enter():
            path.stop()


@contextmanager
def nfqueue(stage: Stage, state: Path) -> Iterator[None]:
    publisher = Publisher(Core())
    configure(publisher, untagged=False)
    fill(publisher)
    options = NfqueueOptions(
        addresses=(Address.of(NODE, PORT),), interfaces=("eth1",), max_len=65536, runtime_dir=state
    )
    with stage.attached(stage.passing), running(stage.node, NfqueueDatapath(publisher.core, options)):
        yield


def measure_rates(stage: Stage, state: Path, runs: int, packets: int) -> dict[str, list[float]]:
    """Each program's runs; they take turns."""
    few = max(packets // 40, 20_000)
    measured: dict[str, tuple[Callable[[], Any], str, int]] = {
        "bare": (lambda: stage.attached(stage.reflect), "forward", packets),
        "kdht": (lambda: ebpf(stage, state, untagged=False), "forward", packets),
        "kdht, client": (lambda: ebpf(stage, state, untagged=False), "client", packets),
        "kdht, relay": (lambda: ebpf(stage, state, untagged=False), "relay", packets),
        "kdht, no tags": (lambda: ebpf(stage, state, untagged=True), "forward", packets),
        "kdht, client, no tags": (lambda: ebpf(stage, state, untagged=True), "client", packets),
        "kdht, relay, no tags": (lambda: ebpf(stage, state, untagged=True), "relay", packets),
        "nfqueue": (lambda: nfqueue(stage, state), "forward", few),
    }
    results: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(runs):
        for name, (start, kind, count) in measured.items():
            with start():
                results[name].append(stage.rate(kind, count))
    return results


def measure_nanoseconds(stage: Stage, state: Path) -> dict[str, float]:
    """The program's own time for one packet of each kind, less the bare program's."""
    found: dict[str, float] = {}
    with stage.node.enter():
        ifindex = if_nametoindex("eth1")
    for untagged in (False, True):
        with ebpf(stage, state, untagged=untagged) as path, stage.node.enter():
            suffix = ", no tags" if untagged else ""
            bare = stage.alone(stage.reflect, "forward", ifindex)
            for kind in KINDS:
                found[kind + suffix] = stage.alone(path._object, kind, ifindex) - bare
    return found


def measure(runs: int, packets: int) -> dict[str, Any]:
    _ebpf.be_quiet()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("bench-ebpf"))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = Stage(lab, compiled(directory))
        nanoseconds = measure_nanoseconds(stage, directory)
        rates = measure_rates(stage, directory, runs, packets)
        size = len(stage.frame("forward"))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "frame_bytes": size,
        "packets": packets,
        "runs": runs,
        "load": os.getloadavg()[0],
        "nanoseconds": {name: round(found) for name, found in nanoseconds.items()},
        "per_second": {name: round(found) for name, found in medians.items()},
        "of_bare": {name: round(found / medians["bare"], 3) for name, found in medians.items()},
        "of_nfqueue": {name: round(found / medians["nfqueue"], 2) for name, found in medians.items()},
        "all_runs": {name: [round(each) for each in found] for name, found in rates.items()},
    }


def command(
    help: str | None, measure: Callable[[int, int], dict[str, Any]], draw: Callable[[dict[str, Any]], None]
) -> click.Command:
    """The command line of a bench on this stage."""

    @click.command(help=help)
    @click.option("--runs", default=5, show_default=True, help="Runs of each program.")
    @click.option("--packets", default=1_000_000, show_default=True, help="Packets in each run.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def main(runs: int, packets: int, as_json: bool) -> None:
        try:
            result = measure(runs, packets)
        except KdhtError as error:
            raise SystemExit(str(error)) from None
        if as_json:
            print(json.dumps(result))
        else:
            draw(result)

    return main


def draw(result: dict[str, Any]) -> None:
    table = Table(
        "program",
        "per second of a processor",
        "of bare",
        "of nfqueue",
        title=f"Frames of {result['frame_bytes']} bytes",
    )
    for name, rate in result["per_second"].items():
        table.add_row(
            name, f"{rate:,}", f"{result['of_bare'][name]:.2f}", f"{result['of_nfqueue'][name]:.1f}"
        )
    Console().print(table)
    times = Table("packet", "nanoseconds", title="The program alone, more than the bare one")
    for name, found in result["nanoseconds"].items():
        times.add_row(name, f"{found:,}")
    Console().print(times)


main = command(__doc__, measure, draw)

if __name__ == "__main__":
    main()
