"""The alerts: valid, tested in both directions, and explained; every expression has metrics and labels that exist."""

import re
import subprocess
from shutil import which

from ci import lacks
from paths import ROOT
from promql import RULES, SET_BY_PROMETHEUS, TESTS, Expression, alerts, of_dashboard, of_documents, of_rules

from kdht.daemon.pages.measures import METRICS

HISTOGRAM_PARTS = re.compile("_(bucket|sum|count)$")
EVERYWHERE = [*of_rules(), *of_dashboard(), *of_documents()]


def promtool(*arguments: str) -> str:
    if which("promtool") is None:
        lacks("needs promtool, of Debian's package prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", str(RULES))


def test_each_alert_fires_in_its_test_and_is_silent_for_a_good_node() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def test_each_alert_has_a_test_and_an_explanation() -> None:
    names = set(alerts())
    assert len(names) > 15
    assert names == set(re.findall(r"- name: (\w+)", TESTS.read_text()))
    assert TESTS.read_text().count('instance="good"') >= len(names)
    assert names == set(
        re.findall(r"^\| `(Kdht\w+)` \|", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)
    )


def unknown_in(each: Expression) -> set[str]:
    """The metrics and labels of an expression that no node has."""
    known, wanted, missing = set(SET_BY_PROMETHEUS), each.grouped, set()
    for selector in each.selectors:
        name = selector.partition("{")[0]
        family = METRICS.get(name) or METRICS.get(HISTOGRAM_PARTS.sub("", name))
        if family is not None:
            known |= {*family.labels, *(["le"] if family.kind == "histogram" else [])}
        elif not name.startswith("process_"):
            missing.add(name)
        wanted |= set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", selector))
    return missing | (wanted - known)


def test_every_expression_names_metrics_and_labels_that_exist() -> None:
    assert len(EVERYWHERE) > 100
    assert {each: unknown for each in EVERYWHERE if (unknown := unknown_in(each))} == {}


def test_a_wrong_label_and_a_wrong_metric_are_found() -> None:
    text = 'sum by (state) (rate(kdht_packets_total{outcome="x",reason="BAD_TAG"}[5m])) / kdht_nothing'
    assert unknown_in(Expression("", text)) == {"state", "outcome", "kdht_nothing"}


def test_rates_are_of_counters() -> None:
    rated = {name for each in EVERYWHERE for name in re.findall(r"(?:rate|increase)\((\w+)", each.text)}
    counters = {name for name in rated if name.endswith(("_total", "_bucket", "_count", "_sum"))}
    assert rated == counters != set()
