"""The seam between captures and implementations of the routing rules.

Each implementation is a context manager whose `run` makes a Run of a batch.
"""

from types import TracebackType
from typing import NamedTuple, Protocol, Self

from kdht.replay._capture import Batch
from kdht.replay._engine import Results
from kdht.replay.seen import Seen

NANOSECONDS = 1_000_000_000
"""In a second."""


class Run(NamedTuple):
    """An implementation's verdicts on a batch."""

    results: Results
    now: int | None
    """The unix second of all verdicts; None: when each packet was captured."""
    seen: list[Seen] | None = None
    """By a live implementation: the observations of each packet."""


class Implementation(Protocol):
    """One implementation with one node's table."""

    name: str

    def __enter__(self) -> Self:
        """Raises DatapathError or LabError where it cannot run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, batch: Batch, now: int | None) -> Run:
        """Verdicts at a unix second, or, with None, at the time of each packet's capture."""


class InProcess:
    """The base of implementations without clean-up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
