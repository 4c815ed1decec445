"""Draws the results of `cluster`."""

from rich.text import Text

from kdht.cli.cluster import ClusterSeen, Evenness, NodeSeen
from kdht.cli.report import duration, terminal
from kdht.program.answers import Forgotten
from kdht.program.drawing import Column, Listing, counted, line, styled


def cluster(data: ClusterSeen, *, wide: bool = False) -> None:
    """A line for each node."""
    drawn = Listing(
        Column("node", is_id=True),
        "address",
        Column("bucket", right=True, rank=7),
        Column("round trip", right=True, rank=2),
        Column("known for", right=True, rank=6),
        Column("seen", right=True, rank=4),
        Column("clock", right=True, rank=5),
        Column("owns", right=True, rank=1),
        Column("keeps", right=True, rank=3),
        Column("agrees", right=True),
        Column("", rank=1),
        title=f"{counted(len(data.nodes), 'node')} as {data.node_id} sees {'it' if len(data.nodes) == 1 else 'them'}",
    )
    for node in data.nodes:
        drawn.add(
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
            _note(node),
        )
    console = terminal()
    drawn.print(console, wide=wide)
    for node in data.nodes:
        if node.self and node.uptime is not None:
            console.print(
                f"this node: {node.address}, kdht {node.version}, up {duration(node.uptime)}, "
                f"{counted(node.records or 0, 'record')}"
            )
    console.print(_evenness(data.shares, len(data.nodes)))
    console.print(
        styled("what the others do, and for how long, is theirs to tell: kdhtctl status there", "dim")
    )


def _part(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _evenness(shares: Evenness, nodes: int) -> Text:
    """How far the greatest is from the mean, and what to do about it."""
    said = (
        f"greatest owner {shares.greatest_owner:.2f} times the mean (at best {shares.least_possible:.2f} with "
        f"{counted(nodes, 'node')}), greatest keeper {shares.greatest_keeper:.2f} times"
    )
    if not shares.complete:
        said += "; there are more nodes than were looked for, so these are estimates"
    if (move := shares.move) is None:
        return line(said)
    return line(
        said,
        (f"\nkdhtctl move on {move.address} makes it more even", "yellow"),
        f": it owns {_part(move.owns)}, and would own {_part(move.would_own)} beside {move.beside}",
    )


def _agreement(node: NodeSeen) -> str | Text:
    if node.asked is None:
        return ""
    if not node.answered:
        return styled("silent", "red")
    return styled(f"{node.agrees} of {node.asked}", "green" if node.agrees == node.asked else "yellow")


def _note(node: NodeSeen) -> str:
    if node.self:
        return "this node"
    return f"missed {counted(node.failures, 'reply', 'replies')}" if node.failures else ""


def forgotten(data: Forgotten) -> None:
    """The nodes that forgot it, and those that did not know it."""
    console = terminal()
    if data.forgot:
        console.print(f"{data.id} is forgotten by {', '.join(data.forgot)}")
    if data.unknown:
        console.print(f"not remembered by {', '.join(data.unknown)}")
