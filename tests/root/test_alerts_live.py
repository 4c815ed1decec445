"""A real Prometheus beside a node whose packets are diverted: every expression selects series, and no alert fires.

Debian's prometheus. It reads one node's metrics once a second, in that node's network namespace.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlencode

import pytest
from ci import lacks
from pages import ask
from promql import RULES, of_dashboard, of_documents, of_rules

from kdht.client import AsyncClient
from kdht.daemon.pages.measures import METRICS
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

METRICS_AT = "127.0.0.1:9548"
PROMETHEUS_AT = "127.0.0.1:9090"
CONFIG = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}"]
scrape_configs: [{{job_name: kdht, static_configs: [{{targets: ["{METRICS_AT}"]}}]}}]
"""
AFTER_EVENTS = {"kdht_socket_errors_total", "kdht_face_events_total"}
"""Metrics without series until something happens."""


class Prometheus:
    def __init__(self, node: LabNode) -> None:
        self._node = node

    def call(self, what: str, **query: str) -> Any:
        """The data of an answer of its API."""
        with self._node.host.enter():
            said = ask(f"http://{PROMETHEUS_AT}/api/v1/{what}?{urlencode(query)}")
        answer = json.loads(said.body)
        assert answer["status"] == "success", (what, query, answer)
        return answer["data"]

    def select(self, expression: str) -> list[Any]:
        found: list[Any] = self.call("query", query=expression)["result"]
        return found

    def healthy_rules(self) -> int:
        return sum(rule["health"] == "ok" for rule in self.call("rules")["groups"][0]["rules"])

    def has_scraped(self) -> bool:
        try:
            return bool(self.select("kdht_ready == 1"))
        except (OSError, ValueError):  # it starts: no answer yet, or no JSON
            return False


@contextmanager
def prometheus(node: LabNode, home: Path) -> Iterator[Prometheus]:
    if which("prometheus") is None:
        lacks("needs Debian's package prometheus")
    (home / "prometheus.yml").write_text(CONFIG)
    files = (f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'series'}")
    with (home / "prometheus.log").open("w") as log:
        process = node.host.popen(
            ["prometheus", *files, f"--web.listen-address={PROMETHEUS_AT}"], stdout=log, stderr=log
        )
        try:
            made = Prometheus(node)
            wait_until(made.has_scraped, "Prometheus to read the node", timeout=60)
            yield made
        finally:
            process.terminate()
            process.wait(30)


async def some_traffic(node: LabNode) -> None:
    async with AsyncClient(str(node.address)) as client:
        await client.put_many({f"key {number}": b"value" for number in range(20)})
        # Of absent keys, too: the cache answers the others, and they are no requests then.
        assert len(await client.get_many(f"key {number}" for number in range(60))) == 20


def test_every_expression_selects_series_and_no_alert_fires(lab: Lab, tmp_path: Path) -> None:
    client = lab.host("client", ipv4="10.53.48.250/24")
    settings = {
        "metrics": {"listen": METRICS_AT},
        "tracker": {"listen": ["127.0.0.1:6969"]},
        "node": {"discover": True},
    }
    with Cluster(places_in(lab, 3), tmp_path, datapath="nfqueue", settings=settings) as cluster:
        node = cluster.nodes[0]
        with client.enter():
            asyncio.run(some_traffic(node))
        with prometheus(node, tmp_path) as real:
            empty = set()
            for each in (*of_rules(), *of_dashboard(), *of_documents()):
                real.select(each.text)  # it is valid
                empty |= {selector for selector in each.selectors if not real.select(selector)}
            histograms = {name for name, metric in METRICS.items() if metric.kind == "histogram"}
            assert {
                each for each in empty - histograms if each.partition("{")[0] not in AFTER_EVENTS
            } == set()
            wait_until(lambda: real.healthy_rules() == len(of_rules()), "all rules to be evaluated")
            assert [each for each in real.call("alerts")["alerts"] if each["state"] == "firing"] == []
