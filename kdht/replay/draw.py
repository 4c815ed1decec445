"""Draws plain data with rich, for people. It fetches nothing; scripts take --json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from kdht.program.drawing import CUT, GAP, SHORT_ID, Column, Listing, counted, line, styled
from kdht.replay.options import console

Data = Mapping[str, Any]

INDENT = 10
"""Columns before a packet's verdict: its number, and a gap."""
ID_DIGITS = 40
"""Hexadecimal digits of a whole ID."""
STYLES = {"FORWARD": "green", "RELAY": "green", "LOCAL": "cyan", "PASS": "dim", "DROP": "red", None: "yellow"}


def _verdict(data: Data) -> Text:
    """A verdict in words, on one line."""
    return _joined(_parts(data, wide=False))


def _parts(data: Data, *, wide: bool) -> list[Text]:
    """What a verdict says, each part to stay on one line. `wide`: with whole IDs."""
    if data["verdict"] is None:
        return [styled(f"could not be run: {data['unable']}", "yellow")]
    parts = [styled(f"{data['verdict']:7} {data['reason']}", STYLES[data["verdict"]])]
    if data.get("target"):
        parts.append(line(f"{data['source']} > {data['target']}"))
    if data.get("next_hop"):
        parts.append(line(f"next hop {_short(data['next_hop'], ID_DIGITS if wide else SHORT_ID)}"))
    if "max_reply" in data:
        parts.append(line(f"reply up to {data['max_reply']} bytes"))
    return parts


def _joined(parts: Sequence[Text]) -> Text:
    return Text(" " * GAP).join(parts)


def packet(data: Data, *, wide: bool = False) -> None:
    """One packet of `run`."""
    out = console()
    parts = _parts(data, wide=wide)
    if data["cut_short"]:
        parts.append(styled("cut short by the capture", "yellow"))
    first, *others = _rows(parts, wide=wide, indent=INDENT)
    out.print(line(f"{data['number']:>{INDENT - GAP}}{' ' * GAP}", first))
    for row in others:
        out.print(line(" " * INDENT, row))
    seen = data.get("seen")
    if seen:
        out.print(f"          seen: {_seen(seen)}")
    for change in data.get("changes", ()):
        changed = f" {change['field']:<14} {_grouped(change['before'])} > {_grouped(change['after'])}"
        out.print(line("          ", (f"{change['offset']:>5}", "dim"), changed))


def _rows(parts: Sequence[Text], *, wide: bool, indent: int = 0) -> list[Text]:
    """Parts in as few rows as the terminal has room for, behind `indent` columns. For a file, or `wide`: in one."""
    out = console()
    fits = wide or not out.is_terminal
    room = out.width - indent
    rows: list[list[Text]] = [[]]
    for part in parts:
        if rows[-1] and not fits and _joined([*rows[-1], part]).cell_len > room:
            rows.append([])
        rows[-1].append(part)
    return [_joined(row) for row in rows]


def _grouped(digits: str, limit: int = 80) -> str:
    short = _short(digits, limit)
    return " ".join(short[at : at + 8] for at in range(0, len(short), 8))


def _short(text: str, limit: int = 64) -> str:
    return text if len(text) <= limit else f"{text[:limit]}{CUT}"


def _tally(rows: Iterable[Data]) -> None:
    drawn = Listing("verdict", "reason", Column("packets", right=True))
    for row in rows:
        verdict = styled(row["verdict"] or "not run", STYLES[row["verdict"]])
        drawn.add(verdict, row["reason"] or "", f"{row['packets']:,}")
    drawn.print(console())


def summary(data: Data) -> None:
    """The end of `run`."""
    out = console()
    _tally(data["reasons"])
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
    _tally(data["reasons"])
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


def explanation(data: Data, *, wide: bool = False) -> None:
    """One packet of `explain`."""
    out = console()
    for row in _rows(_parts(data["verdict"], wide=wide), wide=wide):
        out.print(row)
    for sentence in data["why"]:
        out.print(f"  {sentence}")
    for title, rows in (("fields", data["fields"]), ("checks", data["checks"])):
        if rows:
            drawn = Listing(*rows[0])
            for row in rows:
                drawn.add(*["" if value is None else _short(str(value)) for value in row.values()])
            out.print(styled(f"\n{title}", "bold"))
            out.print(drawn.whole())
    if data["candidates"]:
        out.print()
        _candidates(data["candidates"], wide=wide)
    for change in data["verdict"].get("changes", ()):
        out.print(f"  changed: {change['field']} {_grouped(change['before'])} > {_grouped(change['after'])}")


def _candidates(rows: Sequence[Data], *, wide: bool) -> None:
    drawn = Listing(
        Column("rank", right=True),
        Column("node", is_id=True),
        "address",
        Column("distance", rank=2, is_id=True),
        Column("bits shared", right=True, rank=1),
        title="candidates",
    )
    for row in rows:
        drawn.add(*(str(value) for value in row.values()))
    drawn.print(console(), wide=wide)


def bench(data: Data, *, wide: bool = False) -> None:
    """The figures of `bench`."""
    out = console()
    drawn = Listing(
        "implementation",
        Column("packets/s", right=True),
        Column(f"times {data['ratio_to']}", right=True),
        Column("ns a packet", right=True, rank=1),
        Column("CPU ns a packet", right=True),
    )
    for row in data["figures"]:
        drawn.add(
            row["implementation"],
            f"{row['packets_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['nanoseconds']:,.0f}",
            f"{row['cpu_nanoseconds']:,.0f}",
        )
    drawn.print(out, wide=wide)
    out.print(
        f"{data['packets']:,} packets, {data['bytes']:,} bytes, reading included; {counted(data['rounds'], 'round')} in turn, "
        "the median of each"
    )


def recorded(data: Data) -> None:
    """The end of `record`."""
    out = console()
    _tally(data["reasons"])
    out.print(f"{data['fixture']}: {counted(data['packets'], 'packet')} in {data['seconds']:.1f} s")
    for name, lane in data["node_counted"].items():
        seen = ", ".join(f"{reason} {count:,}" for reason, count in lane.items())
        out.print(f"the node's {name} datapath counted meanwhile: {seen or 'nothing'}")
    for warning in data["warnings"]:
        out.print(styled(warning, "yellow"))
