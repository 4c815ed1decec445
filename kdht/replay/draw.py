"""Draws plain data with rich, for people. It fetches nothing; scripts take --json."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kdht.replay.options import console

Data = Mapping[str, Any]

STYLES = {"FORWARD": "green", "RELAY": "green", "LOCAL": "cyan", "PASS": "dim", "DROP": "red", None: "yellow"}


def _verdict(data: Data) -> str:
    """A verdict in words, on one line."""
    if data["verdict"] is None:
        return f"[yellow]could not be run: {escape(str(data['unable']))}[/]"
    parts = [f"[{STYLES[data['verdict']]}]{data['verdict']:7} {data['reason']}[/]"]
    if data.get("target"):
        parts.append(escape(f"{data['source']} > {data['target']}"))
    if data.get("next_hop"):
        parts.append(f"next hop {data['next_hop'][:12]}")
    if "max_reply" in data:
        parts.append(f"reply up to {data['max_reply']} bytes")
    return "  ".join(parts)


def packet(data: Data) -> None:
    """One packet of `run`."""
    out = console()
    cut = "  [yellow]cut short by the capture[/]" if data["cut_short"] else ""
    out.print(f"{data['number']:>8}  {_verdict(data)}{cut}")
    seen = data.get("seen")
    if seen:
        out.print(f"          seen: {_seen(seen)}")
    for change in data.get("changes", ()):
        out.print(
            f"          [dim]{change['offset']:>5}[/] {change['field']:<14} "
            f"{_grouped(change['before'])} > {_grouped(change['after'])}"
        )


def _grouped(digits: str, limit: int = 80) -> str:
    short = digits if len(digits) <= limit else f"{digits[:limit]}..."
    return " ".join(short[at : at + 8] for at in range(0, len(short), 8))


def _tally(rows: Iterable[Data]) -> Table:
    drawn = Table("verdict", "reason", "packets", box=None, pad_edge=False)
    drawn.columns[2].justify = "right"
    for row in rows:
        style = STYLES[row["verdict"]]
        drawn.add_row(
            f"[{style}]{row['verdict'] or 'not run'}[/]", row["reason"] or "", f"{row['packets']:,}"
        )
    return drawn


def summary(data: Data) -> None:
    """The end of `run`."""
    out = console()
    out.print(_tally(data["reasons"]))
    rate = data["packets"] / data["seconds"] if data["seconds"] else 0
    out.print(
        f"{data['implementation']}: {data['packets']:,} packets in {data['seconds']:.2f} s, "
        f"{rate:,.0f} a second, reading included"
    )
    if data["cut_short"]:
        out.print(f"[yellow]{data['cut_short']:,} packets were cut short by whoever captured them[/]")
    _skipped(data["skipped"])


def _skipped(kinds: Mapping[str, int]) -> None:
    """What was not looked into: frames without IP, and packets inside others."""
    if kinds:
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        console().print(f"[yellow]not looked into: {told}[/]")


def difference(data: Data) -> None:
    """Two verdicts, and the differing fields of the packets."""
    out = console()
    one, other = data["names"]
    out.print(
        f"[bold]packet {data['number']}[/] (offset {data['offset']:,}): [bold red]{escape(data['what'])}[/]"
    )
    for name, verdict in zip(data["names"], data["verdicts"], strict=True):
        seen = data["seen"] if name == other else None
        out.print(f"  {name:12} {_seen(seen) if seen else _verdict(verdict)}")
    fields = [row for row in data["fields"] if row["values"][0] != row["values"][1]]
    drawn = Table("layer", "field", *((one, other) if fields else ("both",)), box=None, padding=(0, 2))
    for row in fields or data["fields"]:
        values = row["values"] if fields else row["values"][:1]
        drawn.add_row(row["layer"], row["field"], *[escape(str(value)) for value in values])
    out.print(drawn)


def _seen(seen: Data) -> str:
    counted = f", counted as {seen['counted'] or seen['counted_by_socket'] or 'nothing'}"
    ends = escape(f" {seen['source']} > {seen['target']}") if seen["target"] else ""
    return f"{seen['what']}{ends}{counted}"


def diff_summary(data: Data) -> None:
    """The end of `diff`."""
    out = console()
    out.print(_tally(data["reasons"]))
    _skipped(data["skipped"])
    first = data["implementations"][0]
    for name, count in data["differences"].items():
        style = "red" if count else "green"
        hidden = data["not_comparable"][name]
        rest = f" ({hidden:,} could not be compared)" if hidden else ""
        out.print(
            f"{name} against {first}: [{style}]{count:,} differences[/] in {data['packets']:,} packets{rest}"
        )


def checked(data: Data) -> None:
    """One fixture of `check`."""
    out = console()
    wrong = data["mismatches"]
    verdict = f"[red]{len(wrong)} wrong[/]" if wrong else "[green]as expected[/]"
    out.print(f"{escape(data['fixture'])} ({data['implementation']}): {data['packets']:,} packets, {verdict}")
    for each in wrong:
        remark = f"  [dim]# {escape(each['remark'])}[/]" if each["remark"] else ""
        out.print(f"{each['number']:>8}  expected {escape(each['expected'])}{remark}")
        out.print(f"          [red]found    {escape(each['found'])}[/]")


def explanation(data: Data) -> None:
    """One packet of `explain`."""
    out = console()
    out.print(_verdict(data["verdict"]))
    for sentence in data["why"]:
        out.print(f"  {escape(sentence)}")
    for title, rows in (
        ("fields", data["fields"]),
        ("checks", data["checks"]),
        ("candidates", data["candidates"]),
    ):
        if rows:
            drawn = Table(title=title, title_justify="left", box=None, padding=(0, 2))
            for name in rows[0]:
                drawn.add_column(name, overflow="fold")
            for row in rows:
                drawn.add_row(*[escape("" if value is None else str(value)[:64]) for value in row.values()])
            out.print(drawn)
    for change in data["verdict"].get("changes", ()):
        out.print(f"  changed: {change['field']} {_grouped(change['before'])} > {_grouped(change['after'])}")


def bench(data: Data) -> None:
    """The figures of `bench`."""
    out = console()
    drawn = Table(
        "implementation", "packets/s", f"times {data['ratio_to']}", "ns a packet", "CPU ns a packet", box=None
    )
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in data["figures"]:
        drawn.add_row(
            row["implementation"],
            f"{row['packets_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['nanoseconds']:,.0f}",
            f"{row['cpu_nanoseconds']:,.0f}",
        )
    out.print(drawn)
    out.print(
        f"{data['packets']:,} packets, {data['bytes']:,} bytes, reading included; {data['rounds']} rounds in turn, "
        "the median of each"
    )


def recorded(data: Data) -> None:
    """The end of `record`."""
    out = console()
    out.print(_tally(data["reasons"]))
    out.print(f"{escape(data['fixture'])}: {data['packets']:,} packets in {data['seconds']:.1f} s")
    for name, lane in data["node_counted"].items():
        counted = ", ".join(f"{reason} {count:,}" for reason, count in lane.items())
        out.print(f"the node's {escape(name)} datapath counted meanwhile: {counted or 'nothing'}")
    for warning in data["warnings"]:
        out.print(f"[yellow]{escape(warning)}[/]")
