"""kdht-replay record: the packets of a running node, as a fixture without secrets."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kdht.errors import ConfigError, KdhtError
from kdht.program import control_client
from kdht.program.answers import NodeStats
from kdht.replay import draw, options, plain, tables
from kdht.replay._capture import Batch
from kdht.replay._engine import Results, run_core
from kdht.replay.capture import CaptureWriter
from kdht.replay.fixtures import VERDICTS, line, rendered
from kdht.replay.options import FILE
from kdht.replay.scrub import Scrubber
from kdht.replay.sniff import Sniffer
from kdht.replay.tables import ReplayTable
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

MOST = 1_000_000
"""The most packets. All are in memory until the end."""
SETTLE = 0.1
"""Seconds from the last packet captured until the node's counters are read: it takes its time to treat one."""
Packets = list[tuple[bytes, int]]


@click.command()
@click.argument("directory", type=FILE)
@click.option("--interface", "-I", required=True, help="Where the node's packets come in.")
@options.table_options
@click.option("--seconds", type=click.FloatRange(min=0.1), help="For so long; else until Ctrl-C or --count.")
@click.option(
    "--count", type=click.IntRange(1, MOST), default=100_000, show_default=True, help="Packets at most."
)
@click.option("--anonymise", is_flag=True, help="Replace addresses, IDs and keys, consistently.")
@click.option("--drop-values", is_flag=True, help="Replace what is stored and padding with zeros.")
@options.as_json
def command(
    directory: Path,
    interface: str,
    seconds: float | None,
    count: int,
    anonymise: bool,
    drop_values: bool,
    as_json: bool,
    **table_options: Any,
) -> None:
    """Capture the kdht traffic that comes in at an interface, into the fixture DIRECTORY.

    The node is named with --socket, and --config or --secret; by default it is this host's, as for kdhtctl. Messages are sealed anew under a
    published key: the fixture never holds the cluster's. The verdicts are the core's with the
    node's table; the node's own counters are held against them.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory}: already exists and is not empty: name a new directory")
    table = tables.at(options.table_of(**table_options), None)
    node = options.node_of(**table_options)
    before = _counters(node)
    begun = time.monotonic()
    packets, lost = _captured(interface, table.port, seconds, count, as_json)
    taken = time.monotonic() - begun
    counted, warnings = _afterwards(before, table, node, table_options)
    if lost:
        warnings.append(f"the kernel dropped {lost} packets that it had no room for")
    scrubber = Scrubber(table, addresses=anonymise, values=drop_values)
    results, changed = _written(directory, table, packets, scrubber)
    if changed:
        warnings.append(f"{changed} packets get another verdict after the replacements and were left out")
    found = {
        "type": "recorded",
        "fixture": str(directory),
        "packets": len(packets) - changed,
        "seconds": taken,
        "lost": lost,
        "reasons": plain.tally(dict(results)),
        "node_counted": counted,
        "warnings": warnings,
    }
    options.emit(found) if as_json else draw.recorded(found)


def _captured(
    interface: str, port: int, seconds: float | None, count: int, quiet: bool
) -> tuple[Packets, int]:
    """The packets, and how many were lost. Ctrl-C ends the recording."""
    found: Packets = []
    end = time.time_ns() + int(seconds * 1e9) if seconds else None
    with Sniffer(interface, port) as sniffer, _interruptible() as interrupted:
        if not quiet:
            options.console().print(f"recording at {interface}; Ctrl-C ends it")
        for each in sniffer:
            ends = [moment for moment in (end, *interrupted) if moment is not None]
            if ends and (each[1] if each else time.time_ns()) >= min(ends):
                break
            if each is not None:
                found.append(each)
            if len(found) >= count:
                break
        return found, sniffer.count_dropped()


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGINT only notes when it came."""
    moments: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: moments.append(time.time_ns()))
    try:
        yield moments
    finally:
        signal.signal(signal.SIGINT, before)


def _afterwards(
    before: dict[str, Counter[str]], table: ReplayTable, node: Path | None, table_options: dict[str, Any]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The node's counts during the recording, and warnings. If the node is gone, the recording still counts."""
    if node is None:
        return {}, ["no node was asked: the verdicts are those of the table file"]
    time.sleep(SETTLE)
    try:
        counted = _difference(before, _counters(node))
        contacts = tables.at(options.table_of(**table_options), None).contacts
    except KdhtError:
        return {}, [
            "the node is gone: what it counted is not known, and its table is the one from the beginning"
        ]
    warnings = []
    if set(contacts) != set(table.contacts):
        warnings.append("the node's contacts changed meanwhile: the table is the one from the beginning")
    if unseen := _treated_by_xdp(counted):
        warnings.append(
            f"{unseen} packets were re-addressed or dropped by the XDP program, before they could be captured: "
            "to have them, let the node use another datapath meanwhile (kdhtctl datapath nfqueue)"
        )
    return counted, warnings


def _treated_by_xdp(counted: dict[str, dict[str, int]]) -> int:
    """Packets that no capture sees, because the XDP program handled them."""
    up = (Verdict.PASS, Verdict.LOCAL)
    return sum(count for name, count in counted.get("ebpf", {}).items() if VERDICT_OF[Reason[name]] not in up)


def _counters(node: Path | None) -> dict[str, Counter[str]]:
    """The node's verdicts by datapath and reason. The socket counts passed packets a second time."""
    if node is None:
        return {}
    lanes = control_client.ask(node, "stats", NodeStats).packets
    return {name: Counter(lane) for name, lane in lanes.items() if name != "all"}


def _difference(before: dict[str, Counter[str]], after: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(lane - before.get(name, Counter())) for name, lane in after.items()}


def _written(
    directory: Path, table: ReplayTable, packets: Packets, scrubber: Scrubber
) -> tuple[Counter[Reason | None], int]:
    """Write the fixture: the tally of its verdicts, and how many packets the replacements changed."""
    times = [nanos for _, nanos in packets]
    usual = _judged(table, [raw for raw, _ in packets], times)
    made = [scrubber.packet(raw, nanos // 1_000_000_000) for raw, nanos in packets]
    judged = _judged(scrubber.table, made, times)
    kept = [i for i in range(len(packets)) if usual.get(i).reason == judged.get(i).reason]
    directory.mkdir(parents=True, exist_ok=True)
    with CaptureWriter(directory / "capture.pcap") as writer:
        for index in kept:
            writer.write(made[index], times[index])
    (directory / "table.json").write_bytes(tables.to_file(scrubber.table, scrubber.secrets))
    lines = {number: line(judged.get(index)) for number, index in enumerate(kept, start=1)}
    (directory / VERDICTS).write_text(rendered(lines, {}), encoding="utf-8")
    return Counter(judged.get(index).reason for index in kept), len(packets) - len(kept)


def _judged(table: ReplayTable, packets: list[bytes], times: list[int]) -> Results:
    results = Results(Batch.of(packets, times))
    run_core(table.core(), results)
    return results
