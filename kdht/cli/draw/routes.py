"""Draws the results of closest, trace and join."""

from rich.markup import escape
from rich.table import Table

from kdht.cli.report import terminal, uncut
from kdht.cli.routes import JoinDone, Ranking, Route
from kdht.program.answers import Replicas


def _table(*columns: str, right: tuple[int, ...], title: str) -> Table:
    drawn = Table(*columns, title=escape(title), title_justify="left", box=None, padding=(0, 2))
    for index in right:
        drawn.columns[index].justify = "right"
    return drawn


def closest(data: Ranking) -> None:
    """Nodes by their distance to a key."""
    asked = {"network": "as the network says", "table": "as this node knows"}[data.asked]
    title = f"closest to {data.key} ({data.id}), {asked}"
    drawn = _table("", "node", "address", "distance", "bits shared", "", right=(0, 4), title=title)
    for row in data.nodes:
        note = ", ".join(
            word for word, wanted in (("owner", row.rank == 0), ("this node", row.is_self)) if wanted
        )
        drawn.add_row(
            str(row.rank + 1),
            row.id,
            row.address,
            f"{row.distance[:16]}...",
            str(row.bits_shared),
            note,
        )
    terminal().print(uncut(drawn, "address"))


def trace(data: Route) -> None:
    """The nodes on a key's way."""
    title = f"the way of {data.key} ({data.id})"
    drawn = _table("hop", "node", "address", "time", "bits shared", "", right=(0, 3, 4), title=title)
    for row in data.hops:
        if row.id is None or row.address is None:
            drawn.add_row(str(row.hop), "*", "", "no answer", "", "")
            continue
        note = "[green]owner[/]" if row.owner else ""
        drawn.add_row(str(row.hop), row.id, row.address, f"{row.ms:.2f} ms", str(row.bits_shared), note)
    console = terminal()
    console.print(uncut(drawn, "address"))
    if data.replicas is not None:
        console.print(_replicas(data.replicas))


def _replicas(data: Replicas) -> Table:
    """The record of each of the key's nodes."""
    newest = max((row.version for row in data.replicas), default=0)
    drawn = _table(
        "replica", "address", "version", "bytes", "", right=(2, 3), title=f"replicas, {data.wanted} wanted"
    )
    for row in data.replicas:
        if not row.answered:
            note = "[red]no answer[/]"
        elif not row.version:
            note = "[yellow]has no record[/]" if newest else "has no record"
        else:
            note = ("deleted" if row.deleted else "") if row.version == newest else "[yellow]older[/]"
        drawn.add_row(
            row.id,
            row.address,
            str(row.version or ""),
            str(row.bytes) if row.version else "",
            note,
        )
    return uncut(drawn, "address", "version")


def joined(data: JoinDone) -> None:
    """Who answered."""
    console = terminal()
    if data.answered:
        console.print(f"joined through {escape(', '.join(data.answered))}; {data.contacts} contacts now")
    if data.silent:
        console.print(f"[yellow]no answer from {escape(', '.join(data.silent))}[/]")
