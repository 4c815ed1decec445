"""Draws the results of load and dump."""

from kdht.cli.report import terminal
from kdht.cli.results import Dumped, Loaded
from kdht.program.drawing import counted


def loaded(data: Loaded) -> None:
    """The end of `load`."""
    before = f", {data.before:,} before" if data.before else ""
    terminal().print(
        f"stored {counted(data.stored, 'value')}, {counted(data.bytes, 'byte')}{before}, "
        f"in {data.seconds:.1f} s: {data.per_second:,.0f} a second"
    )


def dumped(data: Dumped) -> None:
    """The end of `dump`."""
    before = f", {data.before:,} before" if data.before else ""
    terminal().print(
        f"fetched {counted(data.fetched, 'value')}, {counted(data.bytes, 'byte')}{before}, "
        f"in {data.seconds:.1f} s: {data.per_second:,.0f} a second"
    )
