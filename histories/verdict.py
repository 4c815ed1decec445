"""A checker's verdict: violations of a promise, and undecided cases within its budget."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

Promise = Literal[
    "written",
    "one-record",
    "refused",
    "order",
    "condition",
    "linearizable",
    "monotonic",
    "own-writes",
    "own-deletes",
    "counted",
    "watched",
    "kept",
    "agreed",
    "traced",
    "lives",
]
"""docs/guarantees.md has each under its name."""


class Violation(msgspec.Struct, frozen=True):
    promise: Promise | Literal["runs", "undecided"]
    """Beside the promises: a node that raised or hung, and undecided cases."""
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.key}: {self.what}"


class Verdict(NamedTuple):
    violations: tuple[Violation, ...] = ()
    undecided: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.violations and not self.undecided


def joined(verdicts: Iterable[Verdict]) -> Verdict:
    violations: list[Violation] = []
    undecided: list[str] = []
    for verdict in verdicts:
        violations += verdict.violations
        undecided += verdict.undecided
    return Verdict(tuple(violations), tuple(undecided))
