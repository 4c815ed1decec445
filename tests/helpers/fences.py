"""The blocks of code in a document, and what of them a test types or runs."""

import re
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(?P<kind>\S*)[ \t]*(?P<words>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Fence(NamedTuple):
    """One block: its language, the words after that, its text, and the line where that begins."""

    kind: str
    words: tuple[str, ...]
    text: str
    line: int


def fences(document: Path) -> list[Fence]:
    """All blocks of a document, in their order."""
    text = document.read_text()
    return [
        Fence(
            found["kind"],
            tuple(found["words"].split()),
            found["text"],
            text[: found.start()].count("\n") + 2,
        )
        for found in FENCE.finditer(text)
    ]


def shows(pattern: str, said: str) -> bool:
    """Whether what was said is what a document shows: `...` stands for anything, blanks for any blanks."""
    parts = (re.escape(" ".join(part.split())) for part in pattern.split("..."))
    return re.fullmatch(r"\s*.*\s*".join(parts), " ".join(said.split())) is not None
