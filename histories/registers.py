"""Promises on single keys: `written`, `one-record`, `refused`, `order`, `condition` and `linearizable`.

PUT, DELETE and QUORUM_GET of a key are operations of one register. GET is not: it may be behind, and
`sessions` says by how much.
"""

from collections.abc import Iterable, Iterator
from math import inf

from histories.linear import ABSENT, BUDGET, Result, Step, pending, search
from histories.record import History, Operation, by_key
from histories.verdict import Verdict, Violation


def check(history: History, *, linearizable: bool = True, budget: int = BUDGET) -> Verdict:
    """All promises on single keys; `linearizable`: without those that a divided cluster does not keep."""
    violations: list[Violation] = []
    undecided: list[str] = []
    for key, operations in by_key(history).items():
        found = [*written(key, operations), *one_record(key, operations), *refused(key, operations)]
        if linearizable:
            found += [*order(key, operations), *condition(key, operations)]
            result = search(list(steps(operations)), budget)
            if result.linearizable is None:
                undecided.append(f"linearizable: {key}: gave up after {budget:,} configurations")
            elif not result.linearizable:
                found.append(_not_linearizable(key, operations, result))
        violations += found
    return Verdict(tuple(violations), tuple(undecided))


# --- Single operations ---------------------------------------------------------------------


def written(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    """Every value that was read was written by a client, and its write had begun."""
    begun = {op.value: op.invoked_ns for op in operations if op.kind == "put"}
    for read in values_read(operations):
        if begun.get(read.value, inf) > read.returned_ns:
            yield Violation("written", key, f"nobody had written what was read: {read}")


def refused(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    """A refused write, or one with an unmet condition, is never seen."""
    seen = {read.value: read for read in values_read(operations)}
    for op in operations:
        if op.kind == "put" and op.outcome in ("refused", "conflict") and op.value in seen:
            yield Violation("refused", key, f"refused, and read: {op} / {seen[op.value]}")


def one_record(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    """A version of a key stands for one value, and a value has one version."""
    values: dict[int, Operation] = {}
    versions: dict[str, Operation] = {}
    for op in operations:
        if op.outcome != "ok" or op.value is None or not op.version:
            continue
        for before in (values.setdefault(op.version, op), versions.setdefault(op.value, op)):
            if (before.version, before.value) != (op.version, op.value):
                yield Violation("one-record", key, f"two records: {before} / {op}")


def order(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    """A write that began after another was acknowledged, or read by a quorum, has a greater version; a quorum read
    that began after it does not see less."""
    firm = [
        op
        for op in operations
        if op.outcome == "ok" and op.version and (op.kind == "put" or op.kind == "quorum_get")
    ]
    ended = sorted(firm, key=lambda op: op.returned_ns)
    greatest: Operation | None = None
    index = 0
    for op in sorted(firm, key=lambda op: op.invoked_ns):
        while index < len(ended) and ended[index].returned_ns < op.invoked_ns:
            if greatest is None or ended[index].version > greatest.version:
                greatest = ended[index]
            index += 1
        if greatest is None:
            continue
        if op.version < greatest.version or (op.kind == "put" and op.version == greatest.version):
            yield Violation("order", key, f"went back: {greatest} / {op}")


def condition(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    """Of all writes on the condition of one version at most one is acknowledged."""
    done: dict[int, Operation] = {}
    deleted = any(op.kind == "delete" and op.outcome != "refused" for op in operations)
    for op in operations:
        if not op.is_write or op.condition is None or op.outcome != "ok" or (deleted and not op.condition):
            continue
        if (before := done.setdefault(op.condition, op)) is not op:
            yield Violation("condition", key, f"two from one version: {before} / {op}")


def values_read(operations: Iterable[Operation]) -> Iterator[Operation]:
    for op in operations:
        if not op.is_write and op.outcome == "ok":
            yield op


# --- The register --------------------------------------------------------------------------


def steps(operations: Iterable[Operation]) -> Iterator[Step]:
    """The operations for `linear.search`; a value's number is its state, ABSENT is no value."""
    operations = list(operations)
    numbers = {op.value: number for number, op in enumerate(operations, 1) if op.kind == "put"}
    unheard_of = len(operations) + 1  # a state that no step sets
    by_version = {
        op.version: numbers.get(op.value, unheard_of)
        for op in operations
        if op.outcome == "ok" and op.version and op.value is not None
    }
    by_version[0] = ABSENT

    for op in operations:
        if op.kind in ("get", "watch") or op.outcome in ("refused", "conflict"):
            continue
        if op.kind == "quorum_get":
            if op.outcome != "unknown":
                state = ABSENT if op.outcome == "not_found" else numbers.get(op.value, unheard_of)
                yield Step(op.invoked_ns, op.returned_ns, state, None)
            continue
        needs = None if op.condition is None else by_version.get(op.condition, unheard_of)
        sets = ABSENT if op.kind == "delete" else numbers[op.value]
        optional = op.outcome == "unknown"
        yield Step(op.invoked_ns, inf if optional else op.returned_ns, needs, sets, optional)


def _not_linearizable(key: str, operations: list[Operation], result: Result) -> Violation:
    """Names the operations without a possible order."""
    assert result.stuck is not None
    configuration, _ = result.stuck
    names = {op.invoked_ns: op for op in operations}
    values = {number: op for number, op in enumerate(operations, 1) if op.kind == "put"}
    state = values.get(configuration.state)
    waiting = [names[int(step.start)] for step in pending(list(steps(operations)), configuration)]
    shown = " / ".join(str(op) for op in waiting)
    stands = "no value" if state is None else repr(state.value)
    return Violation("linearizable", key, f"while {stands} stands, none of these can be next: {shown}")
