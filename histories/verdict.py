"""What a checker says: violations of a promise, and where it could not decide within its budget."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """`promise` is the name of the checker; docs/guarantees.md has the promise under it."""

    promise: str
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
