"""Draws plain data with rich, for people. It fetches nothing; scripts take --json."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from kdht.program.drawing import CUT, SHORT_ID, Column, Listing, counted, line, styled
from kdht.replay.options import console

Data = Mapping[str, Any]

STYLES = {"FORWARD": "green", "RELAY": "green", "LOCAL": "cyan", "PASS": "dim", "DROP": "red", None: "yellow"}


def _verdict(data: Data) -> Text:
    """A verdict in words, on one line."""
    if data["verdict"] is None:
        return styled(f"could not be run: {data['unable']}", "yellow")
    parts = [""]
    if data.get("target"):
        parts.append(f"{data['source']} > {data['target']}")
    if data.get("next_hop"):
        parts.append(f"next hop {_short(data['next_hop'], SHORT_ID)}")
    if "max_reply" in data:
        parts.append(f"reply up to {data['max_reply']} bytes")
    return line((f"{data['verdict']:7} {data['reason']}", STYLES[data["verdict"]]), "  ".join(parts))


def packet(data: Data) -> None:
    """One packet of `run`."""
    out = console()
    cut = styled("  cut short by the capture" if data["cut_short"] else "", "yellow")
    out.print(line(f"{data['number']:>8}  ", _verdict(data), cut))
    seen = data.get("seen")
    if seen:
        out.print(f"          seen: {_seen(seen)}")
    for change in data.get("changes", ()):
        changed = f" {change['field']:<14} {_grouped(change['before'])} > {_grouped(change['after'])}"
        out.print(line("          ", (f"{change['offset']:>5}", "dim"), changed))


def _grouped(digits: str, limit: int = 80) -> str:
    short = _short(digits, limit)
    return " ".join(short[at : at + 8] for at in range(0, len(short), 8))


def _short(text: str, limit: int = 64) -> str:
    return text if len(text) <= limit else f"{text[:limit]}{CUT}"


def _tally(rows: Iterable[Data]) -> Table:
    drawn = Listing("verdict", "reason", Column("packets", right=True))
    for row in rows:
        verdict = styled(row["verdict"] or "not run", STYLES[row["verdict"]])
        drawn.add(verdict, row["reason"] or "", f"{row['packets']:,}")
    return drawn.whole()


def summary(data: Data) -> None:
    """The end of `run`."""
    out = console()
    out.print(_tally(data["reasons"]))
    rate = data["packets"] / data["seconds"] if data["seconds"] else 0
    out.print(
        f"{data['implementation']}: {counted(data['packets'], 'packet')} in {data['seconds']:.2f} s, "
        f"{rate:,.0f} a second, reading included"
    )
    if data["cut_short"]:
        out.print(
            styled(f"cut short by whoever captured them: {counted(data['cut_short'], 'packet')}", "yellow")
        )
    _skipped(data["skipped"])


def _skipped(kinds: Mapping[str, int]) -> None:
    """What was not looked into: frames without IP, and packets inside others."""
    if kinds:
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        console().print(styled(f"not looked into: {told}", "yellow"))


def difference(data: Data) -> None:
    """Two verdicts, and the differing fields of the packets."""
    out = console()
    one, other = data["names"]
    place = f" (offset {data['offset']:,}): "
    out.print(line((f"packet {data['number']}", "bold"), place, (data["what"], "bold red")))
    for name, verdict in zip(data["names"], data["verdicts"], strict=True):
        seen = data["seen"] if name == other else None
        out.print(line(f"  {name:12} ", _seen(seen) if seen else _verdict(verdict)))
    fields = [row for row in data["fields"] if row["values"][0] != row["values"][1]]
    drawn = Listing("layer", "field", *((one, other) if fields else ("both",)))
    for row in fields or data["fields"]:
        values = row["values"] if fields else row["values"][:1]
        drawn.add(row["layer"], row["field"], *[str(value) for value in values])
    out.print(drawn.whole())


def _seen(seen: Data) -> str:
    counted = f", counted as {seen['counted'] or seen['counted_by_socket'] or 'nothing'}"
    ends = f" {seen['source']} > {seen['target']}" if seen["target"] else ""
    return f"{seen['what']}{ends}{counted}"


def diff_summary(data: Data) -> None:
    """The end of `diff`."""
    out = console()
    out.print(_tally(data["reasons"]))
    _skipped(data["skipped"])
    first = data["implementations"][0]
    for name, count in data["differences"].items():
        differences = styled(counted(count, "difference"), "red" if count else "green")
        hidden = data["not_comparable"][name]
        rest = f" ({hidden:,} could not be compared)" if hidden else ""
        rest = f" in {counted(data['packets'], 'packet')}{rest}"
        out.print(line(f"{name} against {first}: ", differences, rest))


def checked(data: Data) -> None:
    """One fixture of `check`."""
    out = console()
    wrong = data["mismatches"]
    verdict = styled(f"{len(wrong)} wrong", "red") if wrong else styled("as expected", "green")
    packets = counted(data["packets"], "packet")
    out.print(line(f"{data['fixture']} ({data['implementation']}): {packets}, ", verdict))
    for each in wrong:
        remark = styled(f"  # {each['remark']}" if each["remark"] else "", "dim")
        out.print(line(f"{each['number']:>8}  expected {each['expected']}", remark))
        out.print(line("          ", (f"found    {each['found']}", "red")))


def explanation(data: Data) -> None:
    """One packet of `explain`."""
    out = console()
    out.print(_verdict(data["verdict"]))
    for sentence in data["why"]:
        out.print(f"  {sentence}")
    for title, rows in (
        ("fields", data["fields"]),
        ("checks", data["checks"]),
        ("candidates", data["candidates"]),
    ):
        if rows:
            drawn = Listing(*rows[0])
            for row in rows:
                drawn.add(*["" if value is None else _short(str(value)) for value in row.values()])
            out.print(styled(f"\n{title}", "bold"))
            out.print(drawn.whole())
    for change in data["verdict"].get("changes", ()):
        out.print(f"  changed: {change['field']} {_grouped(change['before'])} > {_grouped(change['after'])}")


def bench(data: Data) -> None:
    """The figures of `bench`."""
    out = console()
    figures = ("packets/s", f"times {data['ratio_to']}", "ns a packet", "CPU ns a packet")
    drawn = Listing("implementation", *(Column(title, right=True) for title in figures))
    for row in data["figures"]:
        drawn.add(
            row["implementation"],
            f"{row['packets_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['nanoseconds']:,.0f}",
            f"{row['cpu_nanoseconds']:,.0f}",
        )
    out.print(drawn.whole())
    out.print(
        f"{data['packets']:,} packets, {data['bytes']:,} bytes, reading included; {data['rounds']} rounds in turn, "
        "the median of each"
    )


def recorded(data: Data) -> None:
    """The end of `record`."""
    out = console()
    out.print(_tally(data["reasons"]))
    out.print(f"{data['fixture']}: {counted(data['packets'], 'packet')} in {data['seconds']:.1f} s")
    for name, lane in data["node_counted"].items():
        seen = ", ".join(f"{reason} {count:,}" for reason, count in lane.items())
        out.print(f"the node's {name} datapath counted meanwhile: {seen or 'nothing'}")
    for warning in data["warnings"]:
        out.print(styled(warning, "yellow"))
