"""The examples of the HTTP face in docs/faces.md, typed into one shell; what the commands print is what it shows."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from ci import lacks
from fences import Fence, fences
from http_nodes import HttpNode, http_node
from paths import ROOT

DOCUMENT = ROOT / "docs/faces.md"
DOCUMENTED = "127.0.0.1:5381"
HOST = "127.62.9.1"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpNode]:
    with http_node(tmp_path_factory.mktemp("http"), HOST) as node:
        yield node


def examples() -> list[tuple[Fence, str]]:
    """Each block of commands of the section, with what it prints."""
    text = DOCUMENT.read_text()
    first = text[: text.index("\n## HTTP\n")].count("\n") + 1
    after = text.find("\n## ", text.index("\n## HTTP\n") + 5)
    last = text[:after].count("\n") + 1 if after > 0 else text.count("\n") + 1
    found: list[tuple[Fence, str]] = []
    for fence in fences(DOCUMENT):
        if first < fence.line < last:
            if fence.kind == "sh":
                found.append((fence, ""))
            elif fence.kind == "output" and found:
                found[-1] = (found[-1][0], fence.text)
    return found


def test_the_commands_print_what_the_document_shows(node: HttpNode, tmp_path: Path) -> None:
    if missing := [program for program in ("curl", "jq") if which(program) is None]:
        lacks(f"needs {' and '.join(missing)} (Debian: apt-get install curl jq)")
    blocks = examples()
    assert len(blocks) == 5
    said = []
    for fence, _ in blocks:
        # Later blocks use the first one's variable.
        script = f"url={node.url}\n{fence.text.replace(DOCUMENTED, f'{node.host}:{node.port}')}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("--max-time 1", "--max-time 3")],
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        said.append(done.stdout)
        # A watch has no end, so curl ends it by its time.
        assert done.returncode == (28 if "?watch" in fence.text else 0), (fence.line, done.stderr)
    assert [each.split() for each in said] == [shown.split() for _, shown in blocks]
