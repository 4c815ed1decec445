"""Drawing: text from outside is shown as it is, by every function that draws, and tables fit their terminals."""

import ast
import io
import re
from importlib import import_module
from inspect import getmembers, isfunction
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from paths import ROOT

from kdht.cli import draw as rooms
from kdht.program.drawing import Column, Listing, PlainConsole, counted, line, styled, visible
from kdht.replay import draw as replay_draw

MODULES = [
    "kdht.cli.report",
    *(f"kdht.cli.draw.{path.stem}" for path in Path(rooms.__path__[0]).glob("[a-z]*.py")),
]
DRAWS = [
    pytest.param(function, get_type_hints(function)["data"], id=f"{module}.{name}")
    for module in MODULES
    for name, function in getmembers(import_module(module), isfunction)
    if function.__module__ == module and not name.startswith("_")
    and isinstance(get_type_hints(function).get("data"), type)
]  # fmt: skip
NUMBERED = re.compile(r"x\d+x")


class Marked:
    """Makes data in which each text is a number in rich's markup, with an emoji's name behind it."""

    def __init__(self) -> None:
        self._numbers = count()

    def text(self) -> str:
        return f"[red]x{next(self._numbers)}x[/]:cat:"

    def of(self, kind: Any) -> Any:
        """Of any type of kdht's answers and results."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            return self.of(arguments[0])
        if origin is Literal:
            return arguments[0]
        if origin in (list, tuple):
            return origin(self.of(each) for each in arguments if each is not ...)
        if origin is dict:
            return {
                "state": self.of(arguments[1]),
                "name": self.of(arguments[1]),
                "why": self.of(arguments[1]),
            }
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return kind(**{field.name: self.of(field.type) for field in msgspec.structs.fields(kind)})
        plain = {
            int: 3,
            float: 0.25,
            bool: True,
            type(None): None,
            bytes: b"",
            msgspec.UnsetType: msgspec.UNSET,
        }
        return plain[kind] if kind in plain else self.text()


def data_for(kind: Any) -> Any:
    """Of the fields with plain texts that the program looks up, real ones."""
    data = Marked().of(kind)
    if hasattr(data, "repair"):
        data.repair = {}
    if hasattr(data, "rights"):
        data.rights = "rw"
    for member in getattr(data, "members", []):
        member.base64 = ""
    for phase in getattr(data, "phases", []):
        phase.ms = None
    return data


@pytest.mark.parametrize(("function", "kind"), DRAWS)
def test_brackets_are_shown(function, kind, capsys, monkeypatch):
    """Were one text taken for markup, its number would stand without brackets."""
    monkeypatch.setenv("COLUMNS", "5000")
    function(data_for(kind))
    shown = capsys.readouterr().out
    assert shown
    assert "\N{CAT}" not in shown
    for found in NUMBERED.finditer(shown):
        around = shown[found.start() - 5 : found.end() + 8]
        assert around == f"[red]{found[0]}[/]:cat:"


def test_replay_shows_brackets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "5000")
    texts = Marked()
    verdict = {"verdict": None, "unable": texts.text()}
    replay_draw.explanation(
        {
            "verdict": verdict,
            "why": [texts.text()],
            "fields": [{"a": texts.text()}],
            "checks": [],
            "candidates": [],
        }
    )
    replay_draw.checked(
        {"fixture": texts.text(), "implementation": "core", "packets": 1,
         "mismatches": [{"number": 1, "remark": texts.text(), "expected": texts.text(), "found": texts.text()}]}
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert len(re.findall(r"\[red\]x\d+x\[/\]:cat:", shown)) == len(NUMBERED.findall(shown)) == 7


def test_nothing_but_drawing_makes_a_console():
    """A console of rich's own, or its markup, would take a bracket for a colour."""
    for path in (*ROOT.glob("kdht/**/*.py"), *ROOT.glob("demo/*.py")):
        if path.name == "drawing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich.markup", path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("Console", "Text.from_markup"), path
                if ast.unparse(node.func) == "TextColumn":
                    assert "markup=False" in ast.unparse(node), path


def test_a_terminal_obeys_nothing_that_is_shown():
    out = io.StringIO()
    console = PlainConsole(file=out, width=80)
    console.print("a\x1b[2Jb", line("c\x07", ("d\x9b", "red")), styled("e\r", "red"))
    assert out.getvalue() == "a\\x1b[2Jb c\\x07d\\x9b e\\r\n"
    assert visible("two\nlines\tstay") == "two\nlines\tstay"


# --- Listings

ID = "0123456789abcdef" * 2 + "01234567"


def listing() -> Listing:
    drawn = Listing(
        Column("node", is_id=True),
        "address",
        Column("round trip", right=True, rank=1),
        Column("seen", right=True, rank=2),
        Column("", rank=3),
        title="2 nodes",
    )
    for note in ("", "this node"):
        drawn.add(ID, "[2001:db8:1234:5678::2]:5348", "12.34 ms", "3 m 2 s", note)
    return drawn


def shown_at(width: int, wide: bool = False) -> list[str]:
    out = io.StringIO()
    listing().print(PlainConsole(file=out, width=width, soft_wrap=True), wide=wide)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "hint"),
    [
        (200, ""),
        (80, "IDs are cut; --wide shows all"),
        (60, "IDs are cut; no room for: seen, notes; --wide shows all"),
        (50, "IDs are cut; no room for: round trip, seen, notes; --wide shows all"),
    ],
)
def test_a_row_fits_the_terminal_and_what_is_missing_is_named(width, hint):
    title, header, *rows = shown_at(width)
    if hint:
        assert rows.pop() == hint
    assert title == "2 nodes"
    for row in (header, *rows):
        assert len(row.rstrip()) <= width
    for row in rows:
        assert "[2001:db8:1234:5678::2]:5348" in row
        assert (ID if not hint else f"{ID[:10]}...") in row


def test_what_may_not_give_way_is_never_cut():
    for wide, width in ((False, 20), (True, 60)):
        rows = [row for row in shown_at(width, wide) if "2001" in row]
        assert len(rows) == 2
        assert all("[2001:db8:1234:5678::2]:5348" in row for row in rows)
    assert all(ID in row and "12.34 ms" in row for row in shown_at(60, wide=True)[2:])


def test_numbers_have_their_nouns():
    assert [counted(number, "reply", "replies") for number in (0, 1, 2)] == [
        "0 replies",
        "1 reply",
        "2 replies",
    ]
    assert counted(1234, "node") == "1,234 nodes"
