"""Draws the results of closest, trace and join."""

from rich.text import Text

from kdht.cli.report import terminal
from kdht.cli.routes import JoinDone, Ranking, Route
from kdht.program.answers import Replica, Replicas
from kdht.program.drawing import CUT, Column, Listing, counted, quoted, styled


def closest(data: Ranking, *, wide: bool = False) -> None:
    """Nodes by their distance to a key."""
    asked = {"network": "as the network says", "table": "as this node knows"}[data.asked]
    drawn = Listing(
        Column("", right=True),
        Column("node", is_id=True),
        "address",
        Column("distance", rank=2),
        Column("bits shared", right=True, rank=1),
        Column("", rank=1),
        title=f"closest to {quoted(data.key)} ({data.id}), {asked}",
    )
    for row in data.nodes:
        note = ", ".join(
            word for word, wanted in (("owner", row.rank == 0), ("this node", row.is_self)) if wanted
        )
        distance = row.distance if wide else f"{row.distance[:16]}{CUT}"
        drawn.add(str(row.rank + 1), row.id, row.address, distance, str(row.bits_shared), note)
    drawn.print(terminal(), wide=wide)


def trace(data: Route, *, wide: bool = False) -> None:
    """The nodes on a key's way."""
    drawn = Listing(
        Column("hop", right=True),
        Column("node", is_id=True),
        "address",
        Column("time", right=True),
        Column("bits shared", right=True, rank=1),
        "",
        title=f"the way of {quoted(data.key)} ({data.id})",
    )
    for row in data.hops:
        if row.id is None or row.address is None:
            drawn.add(str(row.hop), "*", "", "no answer", "", "")
            continue
        note = styled("owner", "green") if row.owner else ""
        drawn.add(str(row.hop), row.id, row.address, f"{row.ms:.2f} ms", str(row.bits_shared), note)
    console = terminal()
    drawn.print(console, wide=wide)
    if data.replicas is not None:
        console.print()
        _replicas(data.replicas).print(console, wide=wide)


def _replicas(data: Replicas) -> Listing:
    """The record of each of the key's nodes."""
    newest = max((row.version for row in data.replicas), default=0)
    drawn = Listing(
        Column("replica", is_id=True),
        "address",
        Column("version", right=True),
        Column("bytes", right=True, rank=1),
        "",
        title=f"replicas, {data.wanted} wanted",
    )
    for row in data.replicas:
        size = str(row.bytes) if row.version else ""
        drawn.add(row.id, row.address, str(row.version or ""), size, _replica_note(row, newest))
    return drawn


def _replica_note(row: Replica, newest: int) -> str | Text:
    if not row.answered:
        return styled("no answer", "red")
    if not row.version:
        return styled("has no record", "yellow") if newest else "has no record"
    if row.version != newest:
        return styled("older", "yellow")
    return "deleted" if row.deleted else ""


def joined(data: JoinDone) -> None:
    """Who answered."""
    console = terminal()
    if data.answered:
        console.print(f"joined through {', '.join(data.answered)}; {counted(data.contacts, 'contact')} now")
    if data.silent:
        console.print(styled(f"no answer from {', '.join(data.silent)}", "yellow"))
