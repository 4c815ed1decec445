"""Draws a verdict, as kdht-replay does."""

from kdht.cli.report import Data


def simulate(data: Data) -> None:
    """One packet, and why."""
    from kdht.replay import draw

    draw.explanation(data)
