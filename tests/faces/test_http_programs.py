"""The HTTP clients that come with Go and with Node.js, against a real node."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from ci import lacks
from drivers import build_go
from http_nodes import HttpNode, http_node
from paths import ROOT

HOST = "127.62.4.1"
FIXTURES = ROOT / "tests/fixtures"
FACTS = """\
same version true hello
412 conflict no
event 5
event 600000
large true 206 5678901234
204 404
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpNode]:
    with http_node(tmp_path_factory.mktemp("http"), HOST) as node:
        yield node


def facts(node: HttpNode, *command: str | Path) -> str:
    done = subprocess.run([*command, node.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_go(node: HttpNode, tmp_path: Path) -> None:
    assert facts(node, build_go(FIXTURES / "http_go", ".", tmp_path / "client")) == FACTS


def test_node(node: HttpNode) -> None:
    if which("node") is None:
        lacks("needs node (Debian: apt-get install nodejs)")
    assert facts(node, "node", FIXTURES / "http_client.mjs") == FACTS
