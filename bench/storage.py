"""Storage and service, alone: no network. Reads, synced writes alone and grouped, answers.

    python bench/storage.py [--records N] [--seconds S] [--json]

Each figure is the best of three runs of `--seconds` in one process, on 100-byte values.
"""

import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.lab.standalone import standalone
from kdht.node.replicas.calls import seal_as_sender
from kdht.storage import GroupWriter, LevelStore, Result, StoredRecord, Write
from kdht.storage.writer import Done
from kdht.wire import RECORD, Address, Contact, Message, pack_request
from kdht.wire._shared import PORT, Op, Reason
from kdht.wire.keys import derive

NOW = 1_700_000_000.0
VALUE_BYTES = 100
BATCH = 32
CLIENTS = 4
RUNS = 3
KEY = derive(1, b"a secret for benchmarks")
HOME = Address.of("10.0.0.1", PORT)
ENTRY = Address.of("10.0.0.2", PORT)
CLIENT = Address.of("10.0.0.9", 40000)
Item = TypeVar("Item")


def rate(step: Callable[[], int], seconds: float) -> float:
    """The best of RUNS: how many a second, where each `step` tells how many it did."""
    best = 0.0
    for _ in range(RUNS):
        done, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < seconds:
            done += step()
        best = max(best, done / spent)
    return best


def batches(items: list[Item]) -> Iterator[list[Item]]:
    """Endlessly, BATCH of them at a time."""
    while True:
        for start in range(0, len(items) - BATCH + 1, BATCH):
            yield items[start : start + BATCH]


def reads(store: LevelStore, keys: list[bytes], seconds: float) -> float:
    turns = batches(keys)
    return rate(lambda: len(store.get_many(next(turns), NOW)), seconds)


def write(key: bytes, value: bytes) -> Write:
    """Of a version above all before it."""
    return Write(key, StoredRecord(time.time_ns(), 0, 0, value))


def writes(store: LevelStore, keys: list[bytes], size: int, seconds: float) -> float:
    rng = random.Random(3)
    value = rng.randbytes(VALUE_BYTES)
    return rate(lambda: len(store.apply([write(rng.choice(keys), value) for _ in range(size)], NOW)), seconds)


def repeats(store: LevelStore, keys: list[bytes], seconds: float) -> float:
    """Duplicate writes."""
    held = store.get_many(keys[:10_000], NOW)
    same = [Write(key, record) for key, record in zip(keys, held, strict=False) if record]
    turns = batches(same)
    return rate(lambda: len(store.apply(next(turns), NOW)), seconds)


def grouped(store: LevelStore, keys: list[bytes], seconds: float) -> tuple[float, float]:
    """Writes a second of CLIENTS threads that submit one write at a time; and writes in a group."""
    writer = GroupWriter(store, lambda key, record: None)
    stop = threading.Event()
    value = bytes(VALUE_BYTES)

    def submit(seed: int) -> None:
        rng = random.Random(seed)
        room = threading.Semaphore(256)
        while not stop.is_set():
            room.acquire()
            writer.submit([write(rng.choice(keys), value)], NOW, lambda outcome: room.release())

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    begun, before = time.perf_counter(), writer.stats()
    stop.wait(RUNS * seconds)
    spent, after = time.perf_counter() - begun, writer.stats()
    stop.set()
    for thread in threads:
        thread.join()
    writer.close()
    written = after.written - before.written
    return written / spent, written / (after.groups - before.groups)


def home() -> Core:
    """Of a node without contacts."""
    core = Core()
    core.configure(
        self_id=bytes(20),
        port=PORT,
        own=[HOME.ip],
        source4=HOME.ip,
        source6=None,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
    )
    return core


class NoWriter:
    """Takes all writes, writes nothing, and confirms at once."""

    def submit(self, writes: Sequence[Write], now: float, done: Done) -> bool:
        done([Result(True, False, 1)] * len(writes))
        return True


def replica(store: LevelStore, keys: list[bytes], size: int, seconds: float) -> float:
    """STOREs a second that come `size` at a time to a replica, checked, taken and answered; nothing is written."""
    core, sent = home(), []
    coordinator = standalone(
        core=core,
        contact=Contact(bytes(20), *HOME),
        store=store,
        send=lambda batch: sent.append(len(batch)),
        clock=lambda: NOW,
        open_writer=lambda on_change: NoWriter(),
    ).coordinator
    requests = []
    for key in keys:
        message = pack_request(Op.STORE, key, 1, RECORD.pack(1, 0, 0) + bytes(VALUE_BYTES), hops=1)
        seal_as_sender(core, message, ENTRY, NOW)
        requests.append(Datagram(bytes(message), ENTRY, HOME, Reason.CONTROL, 0))
    turns = (requests[start : start + size] for _ in iter(int, 1) for start in range(0, len(keys), size))

    def step() -> int:
        coordinator.receive(next(turns), NOW)
        return sent.pop()

    return rate(step, seconds)


def answers(store: LevelStore, keys: list[bytes], forwarded: bool, seconds: float) -> float:
    """GETs answered a second by Service.handle, on one thread; all are found."""
    core, sent = home(), []
    service = standalone(
        core=core,
        contact=Contact(bytes(20), *HOME),
        store=store,
        send=lambda batch: sent.append(len(batch)),
        clock=lambda: NOW,
    ).service
    requests = [local(core, key, forwarded) for key in keys]
    turns = (requests[start : start + BATCH] for _ in iter(int, 1) for start in range(0, len(keys), BATCH))

    def step() -> int:
        service.handle(next(turns), NOW)
        return sent.pop()

    found = rate(step, seconds)
    if set(service.counters()) != {"GET OK"}:
        raise SystemExit(f"wrong answers: {service.counters()}")
    return found


def local(core: Core, key: bytes, forwarded: bool) -> Datagram:
    """A GET for this node, as from the datapath."""
    fields = {"client": CLIENT, "entry": ENTRY, "max_reply": 1120, "hops": 9} if forwarded else {}
    message = Message(op=Op.GET, key=key, request_id=1, body=bytes(120), **fields).pack()
    if forwarded:
        core.seal(message, int(NOW))
    source = ENTRY if forwarded else CLIENT
    outcome = core.decide_message(bytearray(message), source, HOME, int(NOW))
    return Datagram(bytes(message), source, HOME, outcome.reason, outcome.max_reply)


def measure(directory: Path, records: int, seconds: float) -> dict[str, float]:
    store = LevelStore(directory / "records")
    rng = random.Random(1)
    keys = [rng.randbytes(20) for _ in range(records)]
    for start in range(0, records, 1000):
        store.apply([write(key, rng.randbytes(VALUE_BYTES)) for key in keys[start : start + 1000]], NOW)
    rng.shuffle(keys)
    grouped_rate, group_size = grouped(store, keys, seconds)
    figures = {
        "gets": reads(store, keys, seconds),
        "puts_alone": writes(store, keys, 1, seconds),
        "puts_in_batches_of_100": writes(store, keys, 100, seconds),
        "puts_through_group_writer": grouped_rate,
        "writes_in_a_group": group_size,
        "puts_of_what_stands": repeats(store, keys, seconds),
        "service_gets_straight": answers(store, keys[:4096], False, seconds),
        "service_gets_forwarded": answers(store, keys[:4096], True, seconds),
        "replica_stores_alone": replica(store, keys[:4096], 1, seconds),
        "replica_stores_in_batches_of_32": replica(store, keys[:4096], BATCH, seconds),
    }
    store.close()
    return figures


@click.command()
@click.option("--records", default=20_000, show_default=True, help="Records in the store.")
@click.option("--seconds", default=1.0, show_default=True, help="Length of one run.")
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Where the database is made."
)
@click.option("--json", "as_json", is_flag=True, help="Plain figures for scripts.")
def main(records: int, seconds: float, directory: Path | None, as_json: bool) -> None:
    """Figures of the storage and of the service on it."""
    with tempfile.TemporaryDirectory(dir=directory) as made:
        figures = measure(Path(made), records, seconds)
    if as_json:
        click.echo(json.dumps({name: round(figure, 1) for name, figure in figures.items()}))
        return
    table = Table("what", "a second", title=f"{records:,} records of {VALUE_BYTES} bytes")
    for name, figure in figures.items():
        table.add_row(name.replace("_", " "), f"{figure:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
