"""The examples in docs/client.md and in README run against a real node, and print what the documents show."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from daemons import DevNode, free_port
from fences import Fence, fences, shows
from paths import ROOT

DOCUMENTS = (ROOT / "docs/client.md", ROOT / "README.md")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a --dev node."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    running = DevNode(tmp_path_factory.mktemp("node"), address).wait_ready()
    yield address
    running.close()


def examples(document: Path) -> list[tuple[Fence, str]]:
    """Each block of Python, with what the document says that it prints."""
    found: list[tuple[Fence, str]] = []
    for fence in fences(document):
        if fence.kind == "python":
            found.append((fence, ""))
        elif fence.kind == "output" and found:
            found[-1] = (found[-1][0], fence.text)
    return found


def test_the_examples_are_found() -> None:
    assert [len(examples(document)) > 0 for document in DOCUMENTS] == [True, True]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_run(document: Path, node: str) -> None:
    names: dict[str, object] = {"__name__": "example"}
    for example, shown in examples(document):
        printed = io.StringIO()
        source = "\n" * (example.line - 1) + example.text.replace('"127.0.0.1"', repr(node))
        with redirect_stdout(printed):
            exec(compile(source, str(document), "exec"), names)
        assert shows(shown, printed.getvalue()) or not shown, f"{document.name}, line {example.line}"
