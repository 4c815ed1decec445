"""The expressions for Prometheus in the project: of the documents, the alerts and the dashboard."""

import json
import re
from typing import NamedTuple

from paths import ROOT

RULES = ROOT / "contrib/prometheus/kdht.rules.yml"
TESTS = ROOT / "contrib/prometheus/kdht.test.yml"
DASHBOARD = json.loads((ROOT / "contrib/grafana/kdht.json").read_text())
CODE = re.compile(r"`([^`\n]*)`")
METRIC = re.compile(r"(?<![\w/.])(?:kdht|process)_[a-z0-9_]+(?![\w./*])")
SELECTOR = re.compile(rf"{METRIC.pattern}(?:\{{[^}}]*\}})?")
SET_BY_PROMETHEUS = {"instance", "job"}


class Expression(NamedTuple):
    place: str
    text: str

    @property
    def selectors(self) -> list[str]:
        """Each metric with its matchers."""
        return SELECTOR.findall(self.text)

    @property
    def grouped(self) -> set[str]:
        """The labels that it groups by."""
        return {label for names in re.findall(r"by \(([^)]*)\)", self.text) for label in names.split(", ")}


def alerts() -> dict[str, str]:
    """The expression of each alert, by name."""
    return dict(re.findall(r"- alert: (\w+)\n +expr: (.+)\n", RULES.read_text()))


def of_rules() -> list[Expression]:
    return [Expression(name, text) for name, text in alerts().items()]


def of_dashboard() -> list[Expression]:
    """With a value for each of its variables."""
    variables = {"$instance": ".*", "$__rate_interval": "1m"}
    found = [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]
    for name, value in variables.items():
        found = [(title, text.replace(name, value)) for title, text in found]
    return [Expression(f"dashboard: {title}", text) for title, text in found]


def of_documents() -> list[Expression]:
    """What stands there as code and names a metric."""
    # Those about the design name functions of that form.
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    spans = {(path.name, span) for path in documents for span in CODE.findall(path.read_text())}
    return [Expression(*each) for each in sorted(spans) if METRIC.search(each[1])]
