"""docs/operating.md says nothing that is not there: errors, units, examples, metrics. The root tests type its commands."""

import ast
import re

import pytest
from operating import DOCUMENT, blocks, errors
from paths import ROOT

from kdht.daemon.pages.measures import METRICS

HOSTS = {"n1", "n2", "n3"}


@pytest.fixture(scope="module")
def texts() -> str:
    """Every text in the sources, pieces of f-strings on lines of their own."""
    found: list[str] = []
    for path in (ROOT / "kdht").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        found += [
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    return "\n".join(found)


@pytest.mark.parametrize("error", errors())
def test_every_error_explained_can_occur(error: str, texts: str) -> None:
    assert error in texts


def test_every_block_of_commands_is_for_hosts() -> None:
    found = blocks()
    assert len(found) > 20
    assert [block.line for block in found if not block.hosts or not set(block.hosts) <= HOSTS] == []


def test_files_that_it_names_are_installed() -> None:
    text = DOCUMENT.read_text()
    for name in re.findall(r"/share/doc/kdht/examples/(\S+\.toml)", text):
        assert (ROOT / "contrib/examples" / name).is_file()
    for name in re.findall(r"`(kdhtd\S*\.service)`", text):
        assert (ROOT / "contrib/systemd" / name).is_file()


def test_metrics_that_it_names_exist() -> None:
    named = set(re.findall(r"`(kdht_\w+)", DOCUMENT.read_text() + (ROOT / "docs/metrics.md").read_text()))
    assert len(named) > 40
    assert named <= set(METRICS)
