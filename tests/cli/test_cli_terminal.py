"""kdhtctl in terminals of 80x24 and 60x20, with nodes on IPv6: nothing is cut without a sign."""

import re
from collections.abc import Iterator

import pytest
from ctl import Ctl, good
from daemons import KDHTCTL, DevNode, free_port_ipv6
from terminals import in_terminal

SIZES = [(80, 24), (60, 20)]
KEY = "[red]key[/]"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    home = tmp_path_factory.mktemp("nodes")
    first = DevNode(home / "n1", f"[::1]:{free_port_ipv6()}").wait_ready()
    second = DevNode(home / "n2", f"[::1]:{free_port_ipv6()}", "--bootstrap", first.listen)
    for node in (first, second):
        node.wait_ready(contacts=1)
    ctl = Ctl(first.control)
    good(ctl("put", KEY, "[bold]v[/]"))
    good(ctl("announce", "--once", "--ttl", "1h", KEY, "[bold]p[/]"))
    yield [first, second]
    for node in (first, second):
        node.close()


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize(
    ("arguments", "headers", "most_lines"),
    [
        (("cluster",), ("node", "address", "owns", "agrees"), 9),
        (("table",), ("bucket", "node", "address", "seen", "round trip", "missed"), 4),
        (("closest", KEY), ("node", "address", "bits shared"), 6),
        (("trace", KEY), ("hop", "node", "address", "time", "replica", "version"), 12),
        (("members", KEY), ("member", "payload", "ends in"), 4),
        (("bench", "--seconds", "0.2"), ("requests", "a second", "p50", "p99", "max", "failed"), 6),
        (("stats",), ("reason", "socket", "all"), 200),
        (("top", "--count", "2", "--interval", "0.2"), ("packets a second", "socket", "all"), 20),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_tables_fit(nodes, columns, rows, arguments, headers, most_lines):
    shown = in_terminal([*KDHTCTL, *arguments], columns, rows, {"KDHT_SOCKET": str(nodes[0].control)})
    assert "…" not in shown
    for header in headers:
        assert re.search(rf"(^|\s){header}(\s|$)", shown, re.MULTILINE), shown
    for line in shown.splitlines():
        # Sentences and titles are left to the terminal to wrap; a row of a table has gaps.
        if "  " in line.strip():
            assert len(line.rstrip()) <= columns, line
    assert len(shown.splitlines()) <= most_lines
    for found in re.findall(r"\[?::1\S*", shown):
        assert re.match(r"\[::1\]:\d+$", found.rstrip(",;:")), found


def test_wide_shows_all(nodes):
    id = nodes[1].call("status")["node_id"]
    environment = {"KDHT_SOCKET": str(nodes[0].control)}
    for command in (["cluster"], ["table"], ["closest", KEY]):
        shown = in_terminal([*KDHTCTL, *command, "--wide"], 60, 20, environment)
        assert id in shown
        assert "--wide shows all" not in shown
    assert "known for" in in_terminal([*KDHTCTL, "cluster", "--wide"], 60, 20, environment)


def test_keys_and_addresses_keep_their_brackets(nodes):
    ctl = Ctl(nodes[0].control, COLUMNS="60")
    assert f"under {KEY}" in good(ctl("put", KEY, "v")).decode()
    assert f"2 nodes as {nodes[0].call('status')['node_id']}" in good(ctl("cluster")).decode()
    for command in (("status",), ("cluster",), ("closest", KEY), ("trace", KEY)):
        assert nodes[0].listen in good(ctl(*command)).decode()
    for command in (("closest", KEY), ("trace", KEY), ("members", KEY)):
        assert KEY in good(ctl(*command)).decode()
