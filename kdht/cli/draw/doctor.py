"""Draws the results of `doctor`."""

from kdht.cli.doctor.findings import Examination
from kdht.cli.report import terminal
from kdht.program.drawing import counted, line

STYLES = {"ok": "green", "warning": "yellow", "failure": "red"}


def doctor(data: Examination) -> None:
    """A line for each finding, and what mends it below."""
    console = terminal()
    for each in data.findings:
        style = STYLES[each.state]
        console.print(line((f"{each.state:8}", style), " ", (each.check, "bold"), f": {each.what}"))
        if each.mend:
            console.print(f"         mend: {each.mend}")
    console.print(f"{data.ok} ok, {counted(data.warnings, 'warning')}, {counted(data.failures, 'failure')}")
