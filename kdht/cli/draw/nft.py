"""Draws the results of the nft commands."""

import sys

from kdht.cli.report import terminal
from kdht.cli.results import RulesetText, TableDiff, TableLoaded, TableRemoved
from kdht.program.drawing import styled


def text(data: RulesetText) -> None:
    """The ruleset as nft reads it."""
    sys.stdout.write(data.text)


def applied(data: TableLoaded) -> None:
    """What was loaded."""
    terminal().print(f"table inet {data.table} is loaded (nft's {data.way} way)")


def removed(data: TableRemoved) -> None:
    """What was taken away."""
    done = "was removed" if data.removed else "was not there"
    terminal().print(f"table inet {data.table} {done}")


def diff(data: TableDiff) -> None:
    """A unified diff."""
    console = terminal()
    for line in data.diff:
        style = {"+": "green", "-": "red"}.get(line[0], "")
        console.print(line, style=style or None)
    if not data.diff:
        console.print(f"table inet {data.table} is loaded as configured")
    elif not data.loaded:
        console.print(styled(f"table inet {data.table} is not loaded", "yellow"))
