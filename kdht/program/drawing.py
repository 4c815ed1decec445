"""Draws text, lines and tables with rich. Text is data: no bracket, colon or control character in it means anything.

rich takes `[fd53::1]` for markup, and a terminal obeys an escape sequence in a key. So this console knows no markup,
and shows control characters as Python writes them. Colours come from `styled` and `line` alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Part: TypeAlias = str | Text | tuple[str, str]
"""A text, or a text and its style."""

GAP = 2
"""Columns of space between two of a table."""
SHORT_ID = 10
"""Hexadecimal digits of an ID where a line has no room for all 40."""
CUT = "..."


class PlainConsole(Console):
    """A console that shows each text as it is."""

    def __init__(self, **options: Any) -> None:
        # Colours for numbers would hide those that mean something.
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text that is printed, or stands in a table, comes here."""
        return super().render_str(visible(text), **options)


def visible(text: str) -> str:
    """With nothing in it that a terminal would obey."""
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def styled(text: str, style: str) -> Text:
    """A text in a colour."""
    return Text(visible(text), style)


def line(*parts: Part) -> Text:
    """Texts one after the other, each in its own style."""
    drawn = Text()
    for part in parts:
        drawn.append(
            part if isinstance(part, Text) else styled(*part) if isinstance(part, tuple) else visible(part)
        )
    return drawn


class Column(NamedTuple):
    """A column of a listing."""

    title: str
    right: bool = False
    rank: int = 0
    """0: always shown. Of the others the one with the greatest rank gives way first."""
    is_id: bool = False
    """Cut, with a sign, where a line has no room."""


class Listing:
    """The look of all tables: a title, then columns without lines between them.

    On a terminal, IDs and then whole columns give way until a row fits, and a last line names what is not shown.
    Only what may never give way can be wider than the terminal, which then wraps it.
    """

    def __init__(self, *columns: Column | str, title: str = "") -> None:
        self._columns = [Column(each) if isinstance(each, str) else each for each in columns]
        self._title = title
        self._rows: list[tuple[Text, ...]] = []

    def add(self, *cells: str | Text) -> None:
        """One row."""
        self._rows.append(tuple(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells))

    def print(self, console: Console, *, wide: bool = False) -> None:
        """`wide`: everything, however long the lines."""
        shown, is_cut, hidden = self.fitted(None if wide else console.width)
        drawn = self.table(shown, is_cut)
        drawn.width = self._width(shown, is_cut)
        if self._title:
            console.print(styled(self._title, "bold"))
        console.print(drawn)
        if is_cut or hidden:
            console.print(styled(_hint(is_cut, hidden), "dim"))

    def fitted(self, width: int | None) -> tuple[list[int], bool, list[str]]:
        """The columns that have room, whether IDs are cut, and the titles of the columns without room."""
        # A column without a single cell says nothing.
        shown = [
            index
            for index, column in enumerate(self._columns)
            if (column.title and not column.rank) or any(row[index].plain for row in self._rows)
        ]
        has_ids = any(self._columns[index].is_id for index in shown)
        hidden: list[int] = []
        is_cut = False
        while width is not None and self._width(shown, is_cut) > width:
            least = max(shown, key=lambda index: self._columns[index].rank)
            if has_ids and not is_cut:
                is_cut = True
            elif self._columns[least].rank:
                shown.remove(least)
                hidden.append(least)
            else:
                break
        return shown, is_cut, [self._columns[index].title or "notes" for index in sorted(hidden)]

    def whole(self) -> Table:
        """All of it, for a picture of several parts. Too long a cell takes more than one line."""
        return self.table(range(len(self._columns)), is_cut=False)

    def table(self, shown: Sequence[int], is_cut: bool) -> Table:
        """As rich draws it."""
        drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold dim")
        for index in shown:
            column = self._columns[index]
            drawn.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for row in self._rows:
            drawn.add_row(*(self._cell(index, row[index], is_cut) for index in shown))
        return drawn

    def _cell(self, index: int, cell: Text, is_cut: bool) -> Text:
        if is_cut and self._columns[index].is_id and cell.cell_len > SHORT_ID + len(CUT):
            return Text(cell.plain[:SHORT_ID] + CUT, cell.style)
        return cell

    def _width(self, shown: Sequence[int], is_cut: bool) -> int:
        widths = [
            max([cell_len(self._columns[index].title), 1]
                + [self._cell(index, row[index], is_cut).cell_len for row in self._rows])
            for index in shown
        ]  # fmt: skip
        return sum(widths) + GAP * max(len(widths) - 1, 0)


def _hint(is_cut: bool, hidden: Sequence[str]) -> str:
    said = ["IDs are cut"] if is_cut else []
    said += [f"no room for: {', '.join(hidden)}"] if hidden else []
    return f"{'; '.join(said)}; --wide shows all"


def quoted(text: str) -> str:
    """A name within a sentence: in quotes where it would not be seen, or not to its end."""
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun: "1 node", "2 nodes"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
