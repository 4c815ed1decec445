"""The metrics of real daemons: right figures, every one documented, and the dashboard draws what there is."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from answers import node_status
from daemons import KDHTCTL, DevNode, free_port, run
from pages import ask
from paths import ROOT
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse
from promql import DASHBOARD

from kdht.daemon.pages.measures import METRICS
from kdht.daemon.pages.metrics import _is_ours, not_ready
from kdht.lab.wait import wait_until
from kdht.program.control_client import call
from kdht.wire._shared import Op, Reason

HOSTS = ("127.60.1.1", "127.60.1.2")
PORT = 9548
DOCUMENT = (ROOT / "docs/metrics.md").read_text()


class Scrape(NamedTuple):
    text: str
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]

    def names(self) -> set[str]:
        """Of series, and of those that have none yet but a heading."""
        headings = set(re.findall(r"^# TYPE (\w+) ", self.text, re.MULTILINE))
        return headings | {name for name, _ in self.values}


def scrape(host: str) -> Scrape:
    said = ask(f"http://{host}:{PORT}/metrics")
    assert said.status == 200
    assert said.headers["Content-Type"].startswith("text/plain; version=")
    found = [sample for family in parse(said.body) for sample in family.samples]
    values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(values) == len(found), "a series is told twice"
    return Scrape(said.body, values)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    """Two nodes with values in them that were read through the other one."""
    home = tmp_path_factory.mktemp("metrics")
    port = free_port(*HOSTS)
    first = f"{HOSTS[0]}:{port}"
    started = [
        DevNode(home / "1", first, "--metrics", f"{HOSTS[0]}:{PORT}"),
        DevNode(home / "2", f"{HOSTS[1]}:{port}", "--bootstrap", first, "--metrics", f"{HOSTS[1]}:{PORT}"),
    ]
    try:
        for node in started:
            node.wait_ready(1)
        wait_until(lambda: all(node.call("status")["ready"] for node in started), "both to be ready")
        for number in range(8):
            for command in (["put", f"key {number}", "value"], ["get", f"key {number}"]):
                done = run([*KDHTCTL, *command, "--node", first])
                assert done.returncode == 0, done.stderr
        yield started
    finally:
        for node in started:
            node.close()


def test_the_figures_are_those_of_the_control_socket(nodes: list[DevNode]) -> None:
    scrapes = [scrape(host) for host in HOSTS]
    told = [call(node.control, "stats") for node in nodes]
    for one, stats in zip(scrapes, told, strict=True):
        assert one.value("kdht_running") == one.value("kdht_ready") == one.value("kdht_contacts") == 1
        assert one.value("kdht_storage_records") == stats["storage"]["records"] == 8
        for name, count in stats["requests"].items():
            op, _, status = name.partition(" ")
            assert one.value("kdht_requests_total", op=op, status=status) == count
        assert one.value("kdht_datapath_state", datapath="socket", state="up") == 1
        packets = {labels for name, labels in one.values if name == "kdht_packets_total"}
        assert len(packets) == 3 * len(Reason)
    for op in ("PUT", "GET"):
        answered = [s.value("kdht_requests_total", op=op, status="OK") for s in scrapes if (
            "kdht_requests_total", frozenset({"op": op, "status": "OK"}.items())) in s.values]  # fmt: skip
        cached = sum(s.value("kdht_cache_answers_total") for s in scrapes) if op == "GET" else 0
        assert sum(answered) + cached >= 8  # more where a client tried one twice


def test_durations_are_counted_once_each(nodes: list[DevNode]) -> None:
    for host, node in zip(HOSTS, nodes, strict=True):
        one, stats = scrape(host), call(node.control, "stats")
        for op in ("PUT", "GET"):
            count = sum(n for name, n in stats["requests"].items() if name.startswith(f"{op} "))
            assert one.value("kdht_request_seconds_count", op=op) == count
            assert one.value("kdht_request_seconds_bucket", op=op, le="+Inf") == count
            assert (one.value("kdht_request_seconds_sum", op=op) > 0) == (count > 0)
        assert one.value("kdht_storage_group_seconds_count") == one.value("kdht_storage_groups_total")
        controls = [
            ("kdht_rpc_seconds_count", frozenset({"part": "control", "op": op.name}.items())) for op in Op
        ]
        assert sum(one.values.get(each, 0) for each in controls) > 0
        assert one.value("kdht_rpc_seconds_count", part="replication", op=Op.STORE.name) > 0
        assert one.value("kdht_contact_rtt_seconds", of="max") > 0


def test_openmetrics_for_those_that_ask_for_it(nodes: list[DevNode]) -> None:
    said = ask(f"http://{HOSTS[0]}:{PORT}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert said.headers["Content-Type"].startswith("application/openmetrics-text")
    assert {family.name for family in parse_open(said.body)} >= {"kdht_packets", "kdht_request_seconds"}


@pytest.mark.parametrize("accept", [
    "application/openmetrics-text;version=abc", "application/openmetrics-text; version=1.0.0; escaping=nonsense",
    "text/plain;version=;escaping", ";;;,,,===", "application/openmetrics-text;version=99999999999999999999.0",
    "application/openmetrics-text;version", "text/plain;escaping=a=b", "\xff" * 500,
])  # fmt: skip
def test_no_accept_header_is_an_error(nodes: list[DevNode], accept: str) -> None:
    assert ask(f"http://{HOSTS[0]}:{PORT}/metrics", Accept=accept).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9548", "localhost.evil.example", "127.0.0.1.evil.example", "[::1"]
)
def test_a_foreign_name_reads_no_metrics(nodes: list[DevNode], host: str) -> None:
    """A page in a browser here may have its name pointed at this machine (DNS rebinding)."""
    said = ask(f"http://{HOSTS[0]}:{PORT}/metrics", Host=host)
    assert (said.status, "kdht_" in said.body) == (403, False)
    assert ask(f"http://{HOSTS[0]}:{PORT}/healthz", Host=host).status == 200, (
        "a load balancer's name is anything"
    )


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9548", "10.0.0.1", "[fd00::1]:9548", socket.gethostname()]
)
def test_own_names_read_metrics(nodes: list[DevNode], host: str) -> None:
    assert ask(f"http://{HOSTS[0]}:{PORT}/metrics", Host=host).status == 200


def test_configured_names_read_metrics() -> None:
    assert _is_ours("n1.example.org:9548", {"n1.example.org"})
    assert _is_ours("N1.example.org.", {"n1.example.org"})
    assert not _is_ours("n2.example.org", {"n1.example.org"})


def test_health_and_readiness(nodes: list[DevNode]) -> None:
    url = f"http://{HOSTS[0]}:{PORT}"
    assert ask(f"{url}/healthz")[:2] == (200, "alive\n")
    for query in ("", "?writes"):
        assert ask(f"{url}/readyz{query}")[:2] == (200, "ready\nready for writes\n")
    assert ask(f"{url}/api/status").status == 404, "the web page was not asked for"


def test_a_node_that_has_not_joined_lives_and_is_not_ready(tmp_path: Path) -> None:
    nobody, host = "127.60.1.9", "127.60.1.3"
    port = free_port(host)
    node = DevNode(
        tmp_path / "n", f"{host}:{port}", "--bootstrap", f"{nobody}:{port}", "--metrics", f"{host}:{PORT}"
    )
    try:
        wait_until(lambda: "joined" in _try(f"http://{host}:{PORT}/readyz"), "it to say what it waits for")
        said = ask(f"http://{host}:{PORT}/readyz")
        assert said.status == 503
        assert said.body.startswith("not ready: waiting for: joined")
        assert ask(f"http://{host}:{PORT}/healthz").status == 200
        one = scrape(host)
        assert (one.value("kdht_running"), one.value("kdht_joined"), one.value("kdht_ready")) == (1, 0, 0)
        assert node.end()[0] == 0
    finally:
        node.close()


def _try(url: str) -> str:
    try:
        return ask(url).body
    except OSError:
        return ""


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_a_node_that_starts_or_stops_is_not_ready(state: str) -> None:
    assert not_ready(node_status(state=state)) == f"the node is {state}"


@pytest.mark.parametrize("field", ["metrics", "web"])
def test_an_address_in_use_is_one_line(nodes: list[DevNode], tmp_path: Path, field: str) -> None:
    host = "127.60.1.4"
    at = f"{HOSTS[0]}:{PORT}"
    node = DevNode(tmp_path / "n", f"{host}:{free_port(host)}", f"--{field}", at)
    try:
        node.process.wait(30)
        assert node.process.returncode == 2
        line = node.said()
        assert line.startswith(f"kdhtd: {field}.listen is {at}: Address already in use: stop what uses it")
        assert line.count("\n") == 1
    finally:
        node.close()


# --- The document and the dashboard ------------------------------------------------------------


def rows(section: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    text = DOCUMENT.split(f"{section}\n", 1)[1]
    table = text[text.index("| ") :].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_the_document_has_every_metric_with_its_kind_labels_and_meaning() -> None:
    documented = {row[0].strip("`"): row[1:] for row in rows("## Each metric")}
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert documented.get(name) == [metric.kind, labels, metric.meaning], name


def test_the_document_has_no_other_metrics(nodes: list[DevNode]) -> None:
    documented = {row[0].strip("`") for row in rows("## Each metric")}
    headings = {name for name in scrape(HOSTS[0]).names() if not re.search("_(bucket|sum|count)$", name)}
    assert documented == headings


@pytest.mark.parametrize(
    ("metric", "group"),
    [
        ("kdht_control_total", "node"),
        ("kdht_replication_total", "replication"),
        ("kdht_repair_total", "repair"),
    ],
)
def test_the_document_has_every_event(nodes: list[DevNode], metric: str, group: str) -> None:
    documented = {row[0].strip("`") for row in rows(f"### Events of `{metric}`")}
    counted = set(call(nodes[0].control, "stats")[group]) - {"watchers"}
    assert counted - {reason.name for reason in Reason} == documented


def test_the_dashboard_asks_for_the_nodes() -> None:
    assert [each["query"] for each in DASHBOARD["templating"]["list"]][
        1
    ] == "label_values(kdht_running, instance)"


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
