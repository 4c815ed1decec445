"""The results of `make bench`, as one Markdown file."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench import scaling
from bench.peers import table

REPORTS: dict[str, Callable[[Any], str]] = {"peers": table.report, "scaling": scaling.report}
"""Measurements with a report of their own. Of the others every figure is a line."""


def report(results: Mapping[str, Any]) -> str:
    """`results`: by measurement, and "machine"."""
    about = results["machine"]
    parts = [
        "# What kdht does on this machine",
        f"{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}, Python {about['python']}.",
    ]
    for name, found in results.items():
        if name != "machine":
            own = REPORTS.get(name)
            parts += [f"## {name}", own(found) if own else plain(found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def plain(found: Any) -> str:
    return table.markdown(["figure", "value"], [[name, _text(value)] for name, value in flat(found)])


def flat(found: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures, each with its path of names."""
    if isinstance(found, Mapping):
        for name, value in found.items():
            yield from flat(value, f"{above}, {name}" if above else str(name))
    elif isinstance(found, list) and any(isinstance(each, Mapping | list) for each in found):
        for number, value in enumerate(found, 1):
            yield from flat(value, f"{above}, {number}")
    else:
        yield above, found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
