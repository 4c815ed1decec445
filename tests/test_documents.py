"""What the documents refer to is there."""

import re
from pathlib import Path
from typing import get_args

import pytest

from histories.plan import KINDS
from histories.verdict import Promise

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for folder in ("", "docs", "nft", "fuzz") for path in (ROOT / folder).glob("*.md"))
LINK = re.compile(r"\[[^]]*\]\(([^)#:]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"\bmake ([a-z]+)")


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = "\n".join(re.findall(r"`[^`]+`|^```.*?^```", document.read_text(), re.MULTILINE | re.DOTALL))
    assert set(COMMAND.findall(quoted)) <= targets


def test_readme_names_the_two_commands_and_links() -> None:
    text = (ROOT / "README.md").read_text()
    assert {"demo", "test"} <= set(COMMAND.findall(text))
    assert len(LINK.findall(text)) >= 4


def test_every_promise_and_every_nemesis_is_among_the_guarantees() -> None:
    text = (ROOT / "docs/guarantees.md").read_text()
    named = set(re.findall(r"`([a-z-]+)`", text))
    assert set(get_args(Promise)) | set(KINDS) - {"calm"} <= named
    for checkers in re.findall(r"Checkers? (.*?)\.", text, re.DOTALL):
        assert set(re.findall(r"`([a-z-]+)`", checkers)) <= set(get_args(Promise))


def test_every_screenshot_is_shown() -> None:
    shown = set(LINK.findall((ROOT / "docs/screenshots.md").read_text()))
    assert {f"screenshots/{path.name}" for path in (ROOT / "docs/screenshots").iterdir()} <= shown
