"""Draws the results of load and dump."""

from kdht.cli.report import terminal
from kdht.cli.results import Dumped, Loaded


def loaded(data: Loaded) -> None:
    """The end of `load`."""
    before = f", {data.before:,} were before" if data.before else ""
    terminal().print(
        f"stored {data.stored:,} values, {data.bytes:,} bytes{before}, "
        f"in {data.seconds:.1f} s: {data.per_second:,.0f} a second"
    )


def dumped(data: Dumped) -> None:
    """The end of `dump`."""
    before = f", {data.before:,} were before" if data.before else ""
    terminal().print(
        f"fetched {data.fetched:,} values, {data.bytes:,} bytes{before}, "
        f"in {data.seconds:.1f} s: {data.per_second:,.0f} a second"
    )
