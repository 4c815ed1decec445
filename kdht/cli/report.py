"""Draws plain data with rich, for people. It fetches nothing; scripts take --json."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from kdht.cli.done import DrainDone, MoveDone
from kdht.cli.results import Deleted, Signed, Stored
from kdht.program.answers import DatapathChoice, DrainCancelled, NodeStats, RoutingTable, Stopping
from kdht.program.drawing import Column, Listing, PlainConsole, counted, line, quoted, styled
from kdht.program.node_status import AccessState, Counters, DatapathState, GoneNode, NodeStatus, RepairState

Data = Mapping[Any, Any]

PIPED_WIDTH = 100_000
"""Columns."""
STATE_STYLES = {"up": "green", "degraded": "yellow", "down": "red"}


def terminal() -> PlainConsole:
    """Standard output. If it is no terminal, lines are as wide as necessary, for grep."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return PlainConsole(soft_wrap=True, width=width)


def grid(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, side by side."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, _shown(value))
    return grid


def _shown(value: object) -> str | Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or "none"
    return str(value)


def duration(seconds: float) -> str:
    """A time span in its two largest units: "3 d 4 h", "5 m 2 s"."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _styled_state(datapath: DatapathState) -> Text:
    state, why = str(datapath.get("state", "?")), str(datapath.get("why") or "")
    return line((state, STATE_STYLES.get(state, "red")), f" ({why})" if why else "")


def status(data: NodeStatus) -> None:
    """What the daemon's `status` gives."""
    console = terminal()
    console.print(
        grid(
            [
                ("node", data.node_id or "not yet"),
                ("state", data.state),
                ("health", _health(data)),
                ("address", data.address),
                ("also", [a for a in data.own if a != data.address]),
                ("version", f"kdht {data.version}, process {data.pid}"),
                ("up for", duration(data.uptime)),
                ("contacts", data.contacts),
                ("joined", data.joined),
                ("ready", _readiness(data)),
                (
                    "writes",
                    f"refused: {data.not_writable}" if data.not_writable else "can be confirmed",
                ),
                *([("gone", _gone(data.gone))] if data.gone else []),
                ("records", data.records),
                ("repair", _repair(data.repair_state)),
                ("data", data.data_dir),
                ("key epochs", data.key_epochs),
                ("cookies", data.cookies),
                ("access", _access(data.access)),
                ("capabilities", [f"{name} ({why})" for name, why in data.capabilities.items()]),
            ]
        )
    )
    _draw_datapaths(console, data.datapaths)
    for face in data.faces:
        state = line(("up", "green")) if face.up else line(("down", "red"), f" ({face.why})")
        console.print(line((face.name, "bold"), " face: ", state, f", {', '.join(face.listen)}"))
    for warning in data.warnings:
        console.print(line(("warning:", "yellow"), f" {warning}"))


def _access(access: AccessState) -> str:
    epochs = f"; tokens of epoch {', '.join(map(str, access.epochs))}" if access.epochs else ""
    return f"writes {access.writes}, reads {access.reads}{epochs}"


def _health(data: NodeStatus) -> str:
    """In a word; the lines below say why."""
    if data.state != "running":
        return str(data.state)
    unwell = [path["name"] for path in data.datapaths if path.get("state") != "up"]
    ills = [
        *(["not ready"] if not data.ready else []),
        *(["no writes"] if data.not_writable else []),
        *([f"degraded: {', '.join(unwell)}"] if unwell else []),
    ]
    return ", ".join(ills) or "good"


def _readiness(data: NodeStatus) -> object:
    return f"no, {data.why_not_ready}" if data.waiting_for else data.ready


def _gone(nodes: Sequence[GoneNode]) -> list[str]:
    """The dead nodes that count in the quorum."""
    return [f"{node.id} at {node.address}, silent for {duration(node.silent)}" for node in nodes]


def _repair(data: RepairState | None) -> str:
    """How far the node and its neighbours agree."""
    if data is None:
        return "not yet"
    if data.draining:
        state = "all records given away" if data.drained else "giving all records away"
        return f"{state}; kdhtctl drain waits for the end, with --cancel it calls that off"
    moving = f", {counted(data.pushing, 'record')} on the way" if data.pushing else ""
    state = f"{data.behind} of {counted(data.ranges, 'key range')} to compare" if data.behind else "in step"
    return f"{state} with {counted(data.neighbours, 'neighbour')}{moving}{_left(data)}{_awaited(data)}{_disagreement(data)}"


def _left(data: RepairState) -> str:
    """The next step, and its expected time."""
    if not data.missing:
        return ""
    seconds = data.seconds_left
    return f", {counted(data.missing, 'record')} to come" + (
        f", about {duration(seconds)}" if seconds else ""
    )


def _awaited(data: RepairState) -> str:
    """The nodes waited for, and the cause, in words."""
    words = {
        "unheard": "an answer from",
        "unseen": "to be counted among the replicas by",
        "unequal": "the records of",
    }
    waits = [f"{words[what]} {_some(addresses)}" for what, addresses in data.waits_for.items() if addresses]
    return f"; waits for {' and '.join(waits)}" if waits else ""


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _disagreement(data: RepairState) -> str:
    """Nearby nodes with another number of replicas in their configuration."""
    if not data.others_replicas:
        return ""
    others = " and ".join(map(str, data.others_replicas))
    return f"; others nearby have replicas = {others}, so {data.replicas} are kept until all say the same"


def _draw_datapaths(console: PlainConsole, datapaths: list[DatapathState]) -> None:
    for path in datapaths:
        console.print(line((path["name"], "bold"), " datapath: ", _styled_state(path), _way_in(path)))


def _way_in(path: DatapathState) -> str:
    """The packets' way to a datapath: its queue rule, or its XDP program and the interfaces."""
    if path.get("queue_rule"):
        return f", {path['queue_rule']} queue rule on {', '.join(path['interfaces'])}"
    if "modes" not in path:
        return ""
    places = ", ".join(f"{name} ({mode})" for name, mode in path["modes"].items())
    return f", program {path['program']} on {places}, pinned in {path['pinned']}"


def datapath(data: DatapathChoice) -> None:
    """What the daemon's `datapath` gives."""
    console = terminal()
    console.print(line((data.kind, "bold"), f" of {', '.join(data.kinds)}"))
    _draw_datapaths(console, data.datapaths)


def table(data: RoutingTable, *, wide: bool = False) -> None:
    """What the daemon's `table` gives: one line a contact."""
    drawn = Listing(
        Column("bucket", right=True, rank=1),
        Column("node", is_id=True),
        "address",
        Column("known for", right=True, rank=3),
        Column("seen", right=True, rank=2),
        Column("round trip", right=True, rank=1),
        Column("missed", right=True, rank=1),
        title=f"{counted(len(data.contacts), 'contact')} of {data.node_id}",
    )
    for bucket in data.buckets:
        for contact in bucket.contacts:
            rtt = contact.rtt_ms
            drawn.add(
                str(bucket.index),
                contact.id,
                contact.address,
                duration(contact.age),
                duration(contact.seen),
                "" if rtt is None else f"{rtt:.2f} ms",
                str(contact.failures),
            )
    console = terminal()
    drawn.print(console, wide=wide)
    for bucket in data.buckets:
        if bucket.replacements:
            waits = "waits" if bucket.replacements == 1 else "wait"
            console.print(f"bucket {bucket.index}: {bucket.replacements} more {waits} for a place")


def stats(data: NodeStats) -> None:
    """The daemon's `stats`, without zeros."""
    _draw_stats(data, zeros=False)


def all_stats(data: NodeStats) -> None:
    """What the daemon's `stats` gives, zeros too."""
    _draw_stats(data, zeros=True)


def _draw_stats(data: NodeStats, zeros: bool) -> None:
    console = terminal()
    _draw_packets(console, data.packets, zeros)
    for name, group in msgspec.to_builtins(data).items():
        if name != "packets":
            _draw_group(console, name, group, zeros)


def _draw_packets(console: PlainConsole, packets: dict[str, Counters], zeros: bool) -> None:
    """Reasons down, lanes across."""
    lanes = [lane for lane, counts in packets.items() if zeros or lane == "all" or any(counts.values())]
    drawn = Listing("reason", *(Column(lane, right=True) for lane in lanes), title="packets by reason")
    reasons = packets[lanes[0]] if lanes else {}
    for reason in reasons:
        counts = [packets[lane][reason] for lane in lanes]
        if zeros or any(counts):
            drawn.add(reason, *(f"{count:,}" for count in counts))
    drawn.print(console)


def _draw_group(console: PlainConsole, name: str, group: Data, zeros: bool) -> None:
    """One group of counters; groups within are named a.b."""
    rows = [(key, value) for key, value in _flat(group) if zeros or value]
    if rows:
        console.print()
        console.print(styled(name, "bold"))
        console.print(grid(rows))


def _flat(group: Data, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Names and values of nested groups and lists of groups, as a.b and a.0.b."""
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            yield from _flat(dict(enumerate(value)), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def stopped(data: Stopping) -> None:
    """What the daemon's `stop` gives."""
    terminal().print(f"stopped: process {data.pid}, {data.address}")


def drained(data: DrainDone) -> None:
    """What `drain` did."""
    terminal().print(f"{counted(data.records, 'record')} given away")
    stopped(data)


def moved(data: MoveDone) -> None:
    """What `move` did."""
    terminal().print(
        f"moved: {data.address} was {data.former} and is {data.to}; records given away: {data.records:,}"
    )


def stays(data: DrainCancelled) -> None:
    """What `drain --cancel` did."""
    terminal().print(
        f"the drain is called off; records left: {data.records:,}; the node joins anew and gets back what it "
        "gave away; kdhtctl status says when it is ready"
    )


def stored(data: Stored) -> None:
    """What `put` did."""
    ttl = f", for {duration(data.ttl)}" if data.ttl else ""
    terminal().print(
        f"stored {counted(data.bytes, 'byte')} under {quoted(data.key)}{ttl}, version {data.version}"
    )


def signed(data: Signed) -> None:
    """What `put --sign` did."""
    ttl = f", for {duration(data.ttl)}" if data.ttl else ""
    terminal().print(
        f"stored {counted(data.bytes, 'byte')} signed by {data.public_key} under {quoted(data.key)}{ttl}, "
        f"seq {data.seq}"
    )


def deleted(data: Deleted) -> None:
    """What `delete` did."""
    terminal().print(f"deleted {quoted(data.key)}")
