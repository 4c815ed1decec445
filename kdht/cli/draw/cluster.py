"""Draws the results of `cluster`."""

from rich.markup import escape
from rich.table import Table

from kdht.cli.cluster import ClusterSeen, Evenness, NodeSeen
from kdht.cli.report import duration, terminal, uncut
from kdht.program.answers import Forgotten


def cluster(data: ClusterSeen) -> None:
    """A line for each node."""
    drawn = Table("node", "address", "bucket", "round trip", "known for", "seen", "clock", "owns", "keeps", "agrees", "",
                  title=f"{len(data.nodes)} nodes as {data.node_id} sees them", box=None,
                  padding=(0, 2))  # fmt: skip
    for index in range(2, 10):
        drawn.columns[index].justify = "right"
    for node in data.nodes:
        drawn.add_row(
            node.id,
            node.address,
            "" if node.bucket is None else str(node.bucket),
            "" if node.rtt_ms is None else f"{node.rtt_ms:.2f} ms",
            "" if node.age is None else duration(node.age),
            "" if node.seen is None else duration(node.seen),
            "" if node.clock is None else f"{node.clock:+.0f} s",
            _part(node.owns),
            _part(node.keeps),
            _agreement(node),
            escape(_note(node)),
        )
    console = terminal()
    console.print(uncut(drawn, "address", "agrees"))
    for node in data.nodes:
        if node.self and node.uptime is not None:
            console.print(
                f"this node: {escape(node.address)}, kdht {node.version}, up {duration(node.uptime)}, "
                f"{node.records:,} records"
            )
    console.print(_evenness(data.shares, len(data.nodes)))
    console.print("[dim]what the others do, and for how long, is theirs to tell: kdhtctl status there[/]")


def _part(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _evenness(shares: Evenness, nodes: int) -> str:
    """How far the greatest is from the mean, and what to do about it."""
    said = (
        f"greatest owner {shares.greatest_owner:.2f} times the mean (at best {shares.least_possible:.2f} with "
        f"{nodes} nodes), greatest keeper {shares.greatest_keeper:.2f} times"
    )
    if not shares.complete:
        said += "; there are more nodes than were looked for, so these are estimates"
    if (move := shares.move) is not None:
        said += (
            f"\n[yellow]kdhtctl move on {escape(move.address)} makes it more even[/]: it owns "
            f"{_part(move.owns)}, and would own {_part(move.would_own)} beside {escape(move.beside)}"
        )
    return said


def _agreement(node: NodeSeen) -> str:
    if node.asked is None:
        return ""
    if not node.answered:
        return "[red]silent[/]"
    style = "green" if node.agrees == node.asked else "yellow"
    return f"[{style}]{node.agrees} of {node.asked}[/]"


def _note(node: NodeSeen) -> str:
    if node.self:
        return "this node"
    return f"missed {node.failures} replies" if node.failures else ""


def forgotten(data: Forgotten) -> None:
    """The nodes that forgot it, and those that did not know it."""
    console = terminal()
    if data.forgot:
        console.print(f"{data.id} is forgotten by {escape(', '.join(data.forgot))}")
    if data.unknown:
        console.print(f"not remembered by {escape(', '.join(data.unknown))}")
