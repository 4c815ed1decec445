"""docs/security.md names a test for each thing that an attacker cannot do, and every one of these tests is there."""

import ast
import re
from functools import cache

import pytest
from paths import ROOT

DOCUMENT = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", DOCUMENT)))
ATTACKERS = (
    "An outsider off the path",
    "An outsider who listens",
    "An outsider on the path",
    "A client with a token",
    "A member",
    "A local user",
    "A thief of a disk",
)


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def sections() -> dict[str, str]:
    """By heading."""
    _, *parts = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    assert test in names_in(path)


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_each_attacker_has_tests(attacker: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", sections()[attacker])


def test_every_row_of_the_table_names_a_test() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", sections()["An outsider off the path"], re.MULTILINE)
    assert len(rows) > 10
    assert [cannot for cannot, _, test in rows[1:] if "::" not in test] == []


@pytest.mark.parametrize("attacker", ["An outsider who listens", "A client with a token", "A local user"])
def test_every_point_that_he_cannot_names_a_test(attacker: str) -> None:
    """The first list of each; lists behind it say what remains."""
    points = sections()[attacker].partition("cannot\n\n- ")[2].partition("\n\n")[0].split("\n- ")
    assert len(points) > 1
    assert [point for point in points if "::test_" not in point] == []
