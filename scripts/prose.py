#!/usr/bin/env python3
"""How plain the documents are: relative clauses a sentence, words and lines of each.

    scripts/prose.py README.md docs/*.md

Counted are the words what, that, which and who with their forms, outside of code, tables and headings. A sentence ends
at a full stop, and so do a list item and a paragraph. Below 0.25 a text reads easily; above 0.5 it reads as a riddle.
"""

import re
import sys
from pathlib import Path

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
NO_PROSE = re.compile(r"^\s*(?:#|\||> ?$|    )")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ", re.MULTILINE)
CLAUSE = re.compile(r"\b(?:what|that|which|who|whom|whose|whoever|whatever)\b", re.IGNORECASE)


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items, without code, tables and headings."""
    text = COMMENT.sub("", FENCE.sub("", text))
    text = CODE.sub("code", LINK.sub(r"\1", text))
    text = "\n".join("" if NO_PROSE.match(line) else line for line in text.splitlines())
    blocks = re.split(r"\n\s*\n", ITEM.sub("\n\n", text))
    return [" ".join(block.split()) for block in blocks if block.strip()]


def sentences(text: str) -> list[str]:
    return [
        sentence
        for paragraph in paragraphs(text)
        for sentence in re.split(r"(?<=[.!?])[)*_]*\s+", paragraph)
        if re.search(r"\w", sentence)
    ]


def clauses(text: str) -> float:
    """Relative clauses a sentence; 0 for a text without sentences."""
    found = sentences(text)
    return sum(len(CLAUSE.findall(sentence)) for sentence in found) / len(found) if found else 0.0


def main() -> None:
    print(" clauses  sentences  words  lines")
    for name in sys.argv[1:]:
        text = Path(name).read_text()
        print(
            f"{clauses(text):8.2f} {len(sentences(text)):10} {len(text.split()):6} {len(text.splitlines()):6}  {name}"
        )


if __name__ == "__main__":
    main()
