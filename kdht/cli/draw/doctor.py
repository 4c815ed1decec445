"""Draws the results of `doctor`."""

from rich.markup import escape

from kdht.cli.doctor.findings import Examination
from kdht.cli.report import terminal

STYLES = {"ok": "green", "warning": "yellow", "failure": "red"}


def doctor(data: Examination) -> None:
    """A line for each finding, and what mends it below."""
    console = terminal()
    for each in data.findings:
        style = STYLES[each.state]
        console.print(f"[{style}]{each.state:8}[/] [bold]{escape(each.check)}[/]: {escape(each.what)}")
        if each.mend:
            console.print(f"         mend: {escape(each.mend)}")
    console.print(f"{data.ok} ok, {data.warnings} warnings, {data.failures} failures")
