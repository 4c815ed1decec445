"""Draws the demonstration with rich; it fetches nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.proof import Check, NodeFacts, histogram
from demo.traffic import Pass
from kdht.client import Hop
from kdht.program.drawing import styled

BAR = 24


def progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """The first `left` columns are text, the others numbers."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="left" if number < left else "right")
    return drawn


def passes(console: Console, results: Mapping[str, Pass]) -> None:
    drawn = _table("Requests", "", "done", "failed", "seconds", "a second")
    for name, result in results.items():
        drawn.add_row(
            name,
            f"{result.done:,}",
            f"{len(result.failures):,}",
            f"{result.seconds:.2f}",
            f"{result.per_second:,.0f}",
        )
    console.print(drawn)


def shares(console: Console, facts: Sequence[NodeFacts]) -> None:
    total = sum(node.records for node in facts) or 1
    most = max(node.records for node in facts) or 1
    drawn = _table("Each node's share of the keys", "node", "address", "id", "", "keys", "share", left=4)
    for node in facts:
        bar = "█" * round(BAR * node.records / most)
        share = f"{node.records / total:.1%}"
        drawn.add_row(node.name, node.address, f"{node.node_id[:8]}…", bar, f"{node.records:,}", share)
    console.print(drawn)


LOCAL = ("OWNER", "ATTEMPT_ENDS", "TRACE_ENDS", "CONTROL")

Columns = dict[str, Callable[[NodeFacts], int]]
"""Headings, and how to get each one's number."""

NFT: Columns = {
    "nft\nclients": lambda node: node.nft["clients"],
    "\nmembers": lambda node: node.nft["members"],
    "\nforwarded": lambda node: node.nft["forwarded"],
    "queue\nentered": lambda node: node.queue["ENTERED"],
    "\nnext hop": lambda node: node.queue["NEXT_HOP"],
    "\nrelayed": lambda node: node.queue["RELAYED"],
    "\nlocal": lambda node: _local(node.queue),
    "socket\nsent on": lambda node: node.readdressed(node.socket),
    " \nlocal": lambda node: _local(node.socket),
}
XDP: Columns = {
    "XDP\nentered": lambda node: node.program["ENTERED"],
    "\nnext hop": lambda node: node.program["NEXT_HOP"],
    "\nrelayed": lambda node: node.program["RELAYED"],
    "\nlocal": lambda node: _local(node.program),
    "\nno neighbour": lambda node: node.program["NO_NEIGHBOUR"],
    "socket\nsent on": lambda node: node.readdressed(node.socket),
    " \nlocal": lambda node: _local(node.socket),
}
SOCKET: Columns = {
    "entered": lambda node: node.socket["ENTERED"],
    "next hop": lambda node: node.socket["NEXT_HOP"],
    "relayed": lambda node: node.socket["RELAYED"],
    "local": lambda node: _local(node.socket),
}


TABLES: dict[str, tuple[str, Columns]] = {
    "nfqueue": ("Packets: counted by nft, verdicts of queue and socket", NFT),
    "ebpf": ("Packets: verdicts of the XDP program and of the socket", XDP),
    "socket": ("Verdicts of the socket", SOCKET),
}
"""By running datapath. The socket always runs."""


def packets(console: Console, facts: Sequence[NodeFacts]) -> None:
    """The packets' path: nft's counters beside the verdicts of queue, program and socket."""
    kinds = {kind for node in facts for kind in node.datapaths}
    title, columns = next(TABLES[kind] for kind in TABLES if kind in kinds)
    drawn = _table(title, "node", *columns)
    for node in facts:
        numbers = [number(node) for number in columns.values()]
        drawn.add_row(node.name, *(f"{number:,}" if number else "·" for number in numbers))
    console.print(drawn)


def _local(lane: Mapping[str, int]) -> int:
    return sum(lane[reason] for reason in LOCAL)


def ways(
    console: Console, found: Mapping[str, Sequence[Hop]], facts: Sequence[NodeFacts], limit: int = 8
) -> None:
    """The longest ways first, then by name."""
    names = {node.node_id: node.name for node in facts}
    drawn = _table("The way of some keys (TRACE)", "key", "entry → owner", "round trip", left=2)
    for key in sorted(found, key=lambda key: (-len(found[key]), key))[:limit]:
        hops = [names.get(hop.contact.id.hex(), "?") if hop.contact else "no answer" for hop in found[key]]
        took = found[key][-1].rtt if found[key] else None
        drawn.add_row(key, " → ".join(hops), f"{took * 1000:.2f} ms" if took else "-")
    console.print(drawn)


def hops(console: Console, found: Mapping[str, Sequence[Hop]]) -> None:
    counts = histogram(found)
    most = max(counts.values(), default=1)
    drawn = _table("Hops from entry node to owner", "hops", "", "keys", left=2)
    for number in range(max(counts, default=0) + 1):
        drawn.add_row(str(number), "█" * round(BAR * counts[number] / most), f"{counts[number]:,}")
    console.print(drawn)


def checks(console: Console, results: Sequence[Check]) -> None:
    drawn = _table("What was shown", "", "claim", "what was counted", left=3)
    for check in results:
        drawn.add_row(
            styled("yes", "green") if check.holds else styled("NO", "bold red"), check.claim, check.detail
        )
    console.print(drawn)


def as_json(
    results: Mapping[str, Pass],
    facts: Sequence[NodeFacts],
    found: Mapping[str, Sequence[Hop]],
    claims: Sequence[Check],
) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "ok": all(check.holds for check in claims),
        "requests": {
            name: {"done": result.done, "seconds": result.seconds, "failures": result.failures}
            for name, result in results.items()
        },
        "nodes": facts,
        "hops": {str(number): count for number, count in sorted(histogram(found).items())},
        "checks": [check._asdict() for check in claims],
    }
