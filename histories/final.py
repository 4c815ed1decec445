"""Promises on the final state, healed and at rest: `kept`, `agreed` and `traced`."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from histories.record import History, Operation, by_key
from histories.verdict import Verdict, Violation


class Held(msgspec.Struct, frozen=True):
    """A record on a node's disk; without a value it is a tombstone."""

    node: str
    version: int
    value: str | None


HeldByKey = Mapping[str, Iterable[Held]]


def check(history: History, held: HeldByKey, replicas: int) -> Verdict:
    """`held`: the records of each key on all nodes' disks."""
    operations = by_key(history)
    return Verdict(
        tuple(
            violation
            for key in sorted(operations.keys() | held.keys())
            for violation in _key(key, operations.get(key, []), list(held.get(key, ())), replicas)
        )
    )


def _key(key: str, operations: list[Operation], held: list[Held], replicas: int) -> Iterator[Violation]:
    yield from _kept(key, operations, held)
    yield from _traced(key, operations, held)
    if held and (len({(record.version, record.value) for record in held}) > 1 or len(held) < replicas):
        shown = ", ".join(f"{record.node}: {record.version} {record.value!r}" for record in held)
        yield Violation("agreed", key, f"the replicas differ, or are fewer than {replicas}: {shown}")


def _kept(key: str, operations: list[Operation], held: list[Held]) -> Iterator[Violation]:
    """No record is below an acknowledged version, and none is missing."""
    acknowledged = [op for op in operations if op.kind == "put" and op.outcome == "ok"]
    if not acknowledged:
        return
    greatest = max(acknowledged, key=lambda op: op.version)
    for record in held:
        if record.version < greatest.version:
            yield Violation("kept", key, f"{record.node} has version {record.version}: {greatest}")
    if not held:
        yield Violation("kept", key, f"nobody has a record: {greatest}")


def _traced(key: str, operations: list[Operation], held: list[Held]) -> Iterator[Violation]:
    """Each final value comes from a possible write, under its version."""
    writes = {op.value: op for op in operations if op.kind == "put"}
    for record in held:
        if record.value is None:
            continue
        op = writes.get(record.value)
        if op is None or op.outcome in ("refused", "conflict"):
            yield Violation("traced", key, f"{record.node} has {record.value!r}: {op}")
        elif op.outcome == "ok" and op.version != record.version:
            yield Violation("traced", key, f"{record.node} has it as version {record.version}: {op}")
