"""The socket datapath alone: messages forwarded per second through one thread, on loopback.

    python bench/socket_datapath.py [--seconds S] [--runs N] [--json]

A C program floods one port; what is measured sends everything on to a socket that nobody
reads. Measured, each in turn and the best of N runs: a C program that forwards in batches of
64 and looks at nothing, the datapath with requests of clients (filled in and tagged), and
the datapath with messages of members (tag checked). The flood has one processor, the
forwarder the other, so "per second" is what came through while more came than it can take;
"per CPU second" is the forwarder's own time, the kernel's part of it included.
"""

import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from kdht._routing import Core, common_bits
from kdht.datapath.base import Handlers
from kdht.datapath.socket.transport import SocketTransport
from kdht.wire import NOWHERE, Address, Contact, Message, seal
from kdht.wire._shared import HOP_LIMIT, ID_LEN, K, Op
from kdht.wire.keys import derive

KEY = derive(1, b"a secret for benchmarks")
CONTACTS = 10_000
MESSAGES = 4096
BODY = 100
HOST = "127.0.0.1"
NOBODY = Address.of("127.0.0.1", 40000)


class Figure(NamedTuple):
    """One run: datagrams that went out, wall seconds, CPU seconds of the forwarder."""

    sent: int
    seconds: float
    cpu: float


def compiled(directory: Path) -> Path:
    """The C program; raises SystemExit with one line if it cannot be built."""
    program = directory / "udp_load"
    source = Path(__file__).with_name("udp_load.c")
    try:
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"udp_load.c cannot be compiled: {error}") from None
    return program


def messages(self_id: bytes, sealed: bool) -> bytes:
    """MESSAGES requests for keys of which all but few lie nearer to others than to `self_id`."""
    chance = random.Random(1)
    made = []
    for number in range(MESSAGES):
        message = Message(
            op=Op.GET,
            key=bytes([self_id[0] ^ 0x80]) + chance.randbytes(ID_LEN - 1),
            request_id=number,
            body=chance.randbytes(BODY),
            hops=HOP_LIMIT if sealed else 0,
            client=NOBODY if sealed else NOWHERE,
            entry=NOBODY if sealed else NOWHERE,
        ).pack()
        if sealed:
            seal(message, KEY, int(time.time()))
        made.append(bytes(message))
    return b"".join(made)


def configured(core: Core, self_id: bytes, own: Address, sink: Address) -> None:
    """Fill the table from CONTACTS random ones, all of which listen at `sink`."""
    chance = random.Random(2)
    core.configure(
        self_id=self_id,
        port=own.port,
        own=[own.ip],
        source4=own.ip,
        source6=None,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
    )
    buckets: dict[int, list[Contact]] = {}
    for _ in range(CONTACTS):
        contact = Contact(chance.randbytes(ID_LEN), *sink)
        bucket = buckets.setdefault(common_bits(self_id, contact.id), [])
        if len(bucket) < K:
            bucket.append(contact)
    for index, contacts in buckets.items():
        core.set_bucket(index, contacts)


def flood(program: Path, file: Path, length: int, port: int, seconds: float) -> None:
    """Send at full speed from the first processor."""
    command = [str(program), "flood", str(file), str(length), str(port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})


def raw(program: Path, sink: Address, run: Callable[[int], None]) -> Figure:
    """The C forwarder under `run(port)`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [str(program), "forward", str(port), str(sink.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        begun = time.perf_counter()
        run(port)
        seconds = time.perf_counter() - begun
        process.terminate()
        said, _ = process.communicate()
    sent, cpu = said.split()
    return Figure(int(sent), seconds, float(cpu))


def datapath(sink: Address, run: Callable[[int], None]) -> Figure:
    """A SocketTransport under `run(port)`."""
    core, self_id = Core(), bytes(ID_LEN)
    transport = SocketTransport(core, [Address.of(HOST, 0)])
    transport.start(Handlers.without_records(lambda _: None))
    try:
        configured(core, self_id, transport.addresses[0], sink)
        thread = transport._thread
        os.sched_setaffinity(thread.native_id, {max(os.sched_getaffinity(0))})
        begun = time.perf_counter()
        run(transport.addresses[0].port)
        seconds = time.perf_counter() - begun
        cpu = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    finally:
        transport.stop()
    status = transport.status()
    if status["send_errors"] or not status["sent"]:
        raise SystemExit(f"the datapath did not forward everything: {status}")
    return Figure(int(status["sent"]), seconds, cpu)


def measure(seconds: float, runs: int) -> dict[str, Figure]:
    """Of `runs` rounds, each forwarder's run with the most messages per CPU second."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
    ):
        unread.bind((HOST, 0))
        sink = Address.of(*unread.getsockname())
        program = compiled(Path(directory))
        length = len(Message(op=Op.GET, key=bytes(ID_LEN), request_id=0, body=bytes(BODY)).pack())
        files = {kind: Path(directory) / kind for kind in ("client", "member")}
        for kind, file in files.items():
            file.write_bytes(messages(bytes(ID_LEN), sealed=kind == "member"))

        def run(kind: str) -> Callable[[int], None]:
            return lambda port: flood(program, files[kind], length, port, seconds)

        measured: dict[str, Callable[[], Figure]] = {
            "C, unread": lambda: raw(program, sink, run("client")),
            "datapath, from clients": lambda: datapath(sink, run("client")),
            "datapath, from members": lambda: datapath(sink, run("member")),
        }
        rounds = [{name: figure() for name, figure in measured.items()} for _ in range(runs)]
    return {name: max((done[name] for done in rounds), key=lambda f: f.sent / f.cpu) for name in measured}


@click.command(help=__doc__)
@click.option("--seconds", default=1.0, show_default=True, help="How long each run floods.")
@click.option("--runs", default=3, show_default=True, help="Rounds, of which the best counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(seconds: float, runs: int, as_json: bool) -> None:
    figures = measure(seconds, runs)
    rates = {
        name: {"per_second": round(f.sent / f.seconds), "per_cpu_second": round(f.sent / f.cpu)}
        for name, f in figures.items()
    }
    if as_json:
        print(json.dumps({"message_bytes": 112 + BODY, "contacts_offered": CONTACTS, "rates": rates}))
        return
    table = Table("forwarder", "messages/s", "messages/CPU s", "of C", title="Forwarding on loopback")
    least = rates["C, unread"]["per_cpu_second"]
    for name, rate in rates.items():
        share = f"{rate['per_cpu_second'] / least:.0%}"
        table.add_row(name, f"{rate['per_second']:,}", f"{rate['per_cpu_second']:,}", share)
    Console().print(table)


if __name__ == "__main__":
    main()
