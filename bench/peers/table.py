"""The figures as Markdown, each beside kdht's."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, float]

COLUMNS = (
    ("get alone, p50 ms", "get_alone_p50_ms", ".3f"),
    ("gets/s, first read", "get_first_per_second", ",.0f"),
    ("gets/s", "get_per_second", ",.0f"),
    ("datagrams a get", "get_packets", ".1f"),
    ("CPU a get, µs", "get_cpu_us", ",.0f"),
    ("put alone, p50 ms", "put_alone_p50_ms", ".3f"),
    ("puts/s", "put_per_second", ",.0f"),
    ("CPU a put, µs", "put_cpu_us", ",.0f"),
    ("memory a node, MiB", "pss_mib", ".1f"),
)
RATIOS = (
    ("gets/s", "get_per_second", True),
    ("get alone", "get_alone_p50_ms", False),
    ("CPU a get", "get_cpu_us", False),
    ("puts/s", "put_per_second", True),
    ("put alone", "put_alone_p50_ms", False),
    ("CPU a put", "put_cpu_us", False),
)
"""Title, figure, and whether more is better: a ratio above 1 is in kdht's favour."""


def report(found: Mapping[str, Any]) -> str:
    """All of it: a table for each cluster, ratios, single nodes, what is missing, notes."""
    parts = []
    for where, by_size in (
        ("on loopback", found["clusters"]),
        ("on hosts of their own", found.get("hosts", {})),
    ):
        for nodes, peers in by_size.items():
            title = f"### {nodes} nodes {where}, {found['plan']['size']}-byte values, 32 outstanding"
            parts += [title, clusters(peers)]
            own = next((name for name in peers if name.startswith("kdht")), None)
            if own is not None and len(peers) > 1:
                parts += [f"How many times better {own} is:", ratios(peers, own)]
    if found.get("single"):
        parts += ["### One node, from another network namespace", singles(found["single"])]
    if found["missing"]:
        parts.append("\n".join(f"- missing: {name}: {why}" for name, why in found["missing"].items()))
    parts.append("\n".join(f"- {name}: {note}" for name, note in found.get("notes", {}).items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def clusters(peers: Mapping[str, Figures]) -> str:
    rows = [
        [name, *(format(figures[key], form) for _, key, form in COLUMNS), _failed(figures)]
        for name, figures in peers.items()
    ]
    return markdown(["", *(title for title, _, _ in COLUMNS), "failed"], rows)


def ratios(peers: Mapping[str, Figures], name: str) -> str:
    """Of one of them beside the others."""
    own = peers[name]
    rows = [
        [f"than {other}", *(f"{ratio(own[key], figures[key], more):.1f}" for _, key, more in RATIOS)]
        for other, figures in peers.items()
        if other != name
    ]
    return markdown(["", *(title for title, _, _ in RATIOS)], rows)


def ratio(own: float, other: float, more_is_better: bool) -> float:
    """How many times better `own` is; infinite where the worse of both is nothing."""
    better, worse = (own, other) if more_is_better else (other, own)
    return better / worse if worse else float("inf")


def singles(rows: Mapping[str, Figures]) -> str:
    return markdown(
        ["", "alone, p50 µs", "p99 µs", "gets/s, 64 outstanding, one core", "server's CPU a get, µs"],
        [
            [name, f"{row['p50_us']:.1f}", f"{row['p99_us']:.1f}", f"{row['per_second']:,.0f}", _cpu(row)]
            for name, row in rows.items()
        ],
    )


def _cpu(row: Figures) -> str:
    return f"{row['cpu_us']:.2f}" if "cpu_us" in row else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with text in the first column and numbers in the others."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _failed(figures: Figures) -> str:
    return f"{sum(value for name, value in figures.items() if name.endswith('_failed')):.0f}"
