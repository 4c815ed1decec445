"""kdht-replay in terminals of 80x24 and 60x20, with addresses of IPv6: nothing is cut without a sign."""

import json
import re
import shlex
import sys

import pytest
from replay_fixtures import DIRECTORY
from terminals import in_terminal

REPLAY = [sys.executable, "-m", "kdht.replay.main"]
SIZES = [(80, 24), (60, 20)]
RIGHT = DIRECTORY / "right-ipv6"
ON = [str(RIGHT / "capture.pcap"), "--table", str(RIGHT / "table.json")]
CONTACT = json.loads((RIGHT / "table.json").read_text())["contacts"][0]["id"]


def shown(columns: int, rows: int, command: str, *arguments: str) -> list[str]:
    """The lines on standard output. On standard error is the bar of progress, which rubs out lines."""
    called = shlex.join([*REPLAY, command, *ON, *arguments])
    return in_terminal(["sh", "-c", f"{called} 2>/dev/null"], columns, rows, {}).splitlines()


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize(
    ("command", "arguments", "headers"),
    [
        ("run", (), ("verdict", "reason", "packets")),
        ("explain", ("1",), ("layer", "name", "value", "check", "found", "rank", "node", "address")),
        ("diff", ("--impl", "oracle", "--impl", "core", "--fault", "core:hops"), ("field", "oracle", "core")),
        ("bench", ("--impl", "core", "--rounds", "1", "--seconds", "0.01"), ("implementation", "packets/s")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_fit(columns, rows, command, arguments, headers):
    lines = shown(columns, rows, command, *arguments)
    text = "\n".join(lines)
    assert "…" not in text
    for header in headers:
        assert re.search(rf"(^|\s){header}(\s|$)", text, re.MULTILINE), text
    for line in lines:
        # The terminal wraps a sentence, also a row of changed bytes. Rows of tables and packets have gaps.
        if "  " in line.strip() and "changed:" not in line and not line.startswith("  "):
            assert len(line.rstrip()) <= columns, line


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_a_packet_takes_as_many_rows_as_it_needs(columns, rows):
    lines = shown(columns, rows, "run")
    begins = [number for number, line in enumerate(lines) if re.match(r" +\d+  [A-Z]+ ", line)]
    assert len(begins) == 8
    packets = lines[: next(number for number, line in enumerate(lines) if line.startswith("verdict"))]
    assert all(len(line) <= columns for line in packets)
    assert any("next hop" in line for line in packets)


def test_wide_shows_whole_ids_on_one_line():
    run = shown(60, 20, "run", "--wide")
    assert any("FORWARD" in line and f"next hop {CONTACT}" in line for line in run)
    explained = "\n".join(shown(60, 20, "explain", "1", "--wide"))
    assert CONTACT in explained
    for header in ("distance", "bits shared"):
        assert header in explained
    assert "--wide shows all" not in explained
    assert "ns a packet" in "\n".join(
        shown(60, 20, "bench", "--impl", "core", "--rounds", "1", "--seconds", "0.01", "--wide")
    )
