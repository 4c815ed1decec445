"""What the documents refer to is there: files, headings, make targets."""

import re
import runpy
import subprocess
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from paths import ROOT

from histories.plan import KINDS
from histories.verdict import Promise
from kdht.errors import EXIT_CODES

LINK = re.compile(r"\[[^]]*\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)")
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
COMMAND = re.compile(r"\bmake ([a-z]+)")
PATH = re.compile(
    r"`((?:kdht|include|bpf|nft|contrib|tests|scripts|bench|fuzz|histories|demo|docs)/[\w./@-]+)"
)
NAME = re.compile(r"`(_\w+|[A-Z]\w+\.\w+)(?:\(\))?`")
README_LINES, README_COLUMNS = 150, 100
DESIGN_WORDS = 1500
NO_FILES = {"bench/results", "fuzz/build", "kdht/large/chunk/", "kdht/large/journal/"}
"""Directories that commands make, and names of records."""
CLAUSES = 0.25
"""What, that, which and who, a sentence: above, a text is hard to read."""
PROSE = runpy.run_path(str(ROOT / "scripts/prose.py"))


def documents() -> list[Path]:
    """Every document of the project: what git knows, or would take."""
    command = ["git", "ls-files", "-coz", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(path for name in set(listed.split("\0")) if name and (path := ROOT / name).exists())


DOCUMENTS = documents()


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


OF_THE_CODE = [
    path for path in DOCUMENTS if path.name == "CONTRIBUTING.md" or path.parent == ROOT / "docs/design"
]
"""The documents that name functions and classes."""


@cache
def words_of_the_code() -> frozenset[str]:
    command = ["git", "ls-files", "-coz", "--exclude-standard", "*.py", "*.pyx", "*.pxd", "*.c", "*.h"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sources = [path for name in set(listed.split("\0")) if name and (path := ROOT / name).exists()]
    return frozenset(word for path in sources for word in re.findall(r"\w+", path.read_text()))


def unknown_names(text: str) -> set[str]:
    """Private names, and names of methods, that a document has and no source."""
    return {name for name in NAME.findall(text) if not set(re.findall(r"\w+", name)) <= words_of_the_code()}


def links(text: str) -> list[str]:
    """The targets of its links, those of pictures too; what is quoted as code has none."""
    return LINK.findall(CODE.sub("", FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """What may follow a `#`: its headings as the forges that show Markdown name them, and its own anchors."""
    found: set[str] = set(ANCHOR.findall(text))
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        times = sum(
            each == name or re.fullmatch(rf"{re.escape(name)}-\d+", each) is not None for each in found
        )
        found.add(f"{name}-{times}" if times else name)
    return found


def broken(document: Path) -> list[str]:
    """The relative links in a document that lead nowhere."""
    relative = (link for link in links(document.read_text()) if not ELSEWHERE.match(link))
    return [link for link in relative if not leads_somewhere(document, link)]


def leads_somewhere(document: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = document.parent / file if file else document
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_relative_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# Two `words`, [a link](x)!\n\n## Twice\n\n## Twice\n")
    text = """# Here

[a](there.md) [b](there.md#two-words-a-link) [c](there.md#twice-1) [d](#here) [e](https://example.org/#x)
[f](gone.md) [g](there.md#three-words) [h](#there) `[i](code.md)` ![j](gone.png "with a title")

```
[k](quoted.md)
# No heading
```

[l](#no-heading)
"""
    here = tmp_path / "here.md"
    here.write_text(text)
    assert broken(here) == [
        "gone.md",
        "there.md#three-words",
        "#there",
        "gone.png",
        "#no-heading",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = "\n".join(re.findall(r"`[^`]+`|^```.*?^```", document.read_text(), re.MULTILINE | re.DOTALL))
    assert set(COMMAND.findall(quoted)) <= targets


def test_readme_is_short_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= README_LINES
    assert [line for line in lines if len(line) > README_COLUMNS] == []
    assert {"demo", "test"} <= set(COMMAND.findall(text))


def test_every_document_is_reached_from_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in seen or document.suffix != ".md" or not document.exists():
            continue
        seen.add(document)
        targets = (
            link.partition("#")[0] for link in links(document.read_text()) if not ELSEWHERE.match(link)
        )
        waiting += [(document.parent / target).resolve() for target in targets if target]
    assert [of(document) for document in DOCUMENTS if document not in seen] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_paths_exist(document: Path) -> None:
    named = PATH.findall(document.read_text())
    assert {name for name in named if not (ROOT / name).exists()} <= NO_FILES


@pytest.mark.parametrize("document", OF_THE_CODE, ids=of)
def test_names_are_in_the_code(document: Path) -> None:
    assert unknown_names(document.read_text()) == set()


def test_a_name_that_is_not_in_the_code_is_found() -> None:
    gone = "_is_" + "gone"
    assert unknown_names(f"`{gone}`, `Service.{gone}`, `Service.handle`, `any_word`") == {
        gone,
        f"Service.{gone}",
    }


def test_glossary_names_a_file_for_most_words() -> None:
    assert len(set(PATH.findall((ROOT / "docs/glossary.md").read_text()))) > 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_sentences_are_plain(document: Path) -> None:
    assert PROSE["clauses"](document.read_text()) <= CLAUSES


def test_relative_clauses_are_counted_a_sentence() -> None:
    text = """# What that is, which counts not

It sends what it has.

- A node that listens, or `what` is code. It is short
- [who](which.md) sends?

| what | that |
"""
    assert PROSE["sentences"](text) == [
        "It sends what it has.",
        "A node that listens, or code is code.",
        "It is short",
        "who sends?",
    ]
    assert PROSE["clauses"](text) == 3 / 4


@pytest.mark.parametrize("document", sorted((ROOT / "docs/design").glob("*.md")), ids=of)
def test_design_is_one_topic_a_file(document: Path) -> None:
    assert len(document.read_text().split()) <= DESIGN_WORDS


def test_glossary_explains_each_word_once() -> None:
    explained, _, _ = (ROOT / "docs/glossary.md").read_text().partition("## To be renamed")
    words = re.findall(r"^\| ([^|]+?) \| (?!meaning )[^-|]", explained, re.MULTILINE)
    assert len(words) > 60
    assert len(words) == len(set(words))


def test_every_exit_code_is_explained() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "docs/exit-codes.md").read_text(), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_guarantees_list_every_promise_and_nemesis() -> None:
    text = (ROOT / "docs/guarantees.md").read_text()
    named = set(re.findall(r"`([a-z-]+)`", text))
    assert set(get_args(Promise)) | set(KINDS) - {"calm"} <= named
    for checkers in re.findall(r"Checkers? (.*?)\.", text, re.DOTALL):
        assert set(re.findall(r"`([a-z-]+)`", checkers)) <= set(get_args(Promise))


def test_every_screenshot_is_shown() -> None:
    shown = set(links((ROOT / "docs/screenshots.md").read_text()))
    assert {f"screenshots/{path.name}" for path in (ROOT / "docs/screenshots").iterdir()} <= shown
