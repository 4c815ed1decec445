"""docs/operating.md as data: its blocks of commands with the hosts they are for, and the errors it explains."""

import re
from typing import NamedTuple

from paths import ROOT

DOCUMENT = ROOT / "docs/operating.md"
FENCE = re.compile(r"^```(?P<kind>\S*)[ \t]*(?P<hosts>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(?P<text>[^`]+)` \| (?P<advice>.+) \|$", re.MULTILINE)


class Block(NamedTuple):
    """What is typed on each of the hosts, one after the other; `line` is where it stands."""

    hosts: tuple[str, ...]
    script: str
    line: int


def blocks() -> list[Block]:
    text = DOCUMENT.read_text()
    return [
        Block(tuple(found["hosts"].split()), found["text"], text[: found.start()].count("\n") + 2)
        for found in FENCE.finditer(text)
        if found["kind"] == "sh"
    ]


def errors() -> list[str]:
    """The texts in the table of errors."""
    _, _, section = DOCUMENT.read_text().partition("\n## What errors mean\n")
    return [found["text"] for found in ROW.finditer(section)]
