"""The promise `counted`: no increment of a counter is lost.

A counter's value is "N MARK". A client reads it by QUORUM_GET and writes N + 1 with a mark of its own, on the
condition that the version is unchanged. Without a value it writes 1 on the condition that there is none.
"""

from collections.abc import Iterable, Iterator

from histories.record import History, Operation, by_key
from histories.verdict import Verdict, Violation

PREFIX = "counter-"


def count(value: str) -> int:
    return int(value.split(" ", 1)[0])


def check(history: History) -> Verdict:
    """Of all keys that are counters; the last read of each is its count."""
    return Verdict(
        tuple(
            violation
            for key, operations in by_key(history).items()
            if key.startswith(PREFIX)
            for violation in _counter(key, operations)
        )
    )


def _counter(key: str, operations: Iterable[Operation]) -> Iterator[Violation]:
    operations = list(operations)
    steps: dict[int, Operation] = {}
    for op in operations:
        if op.kind != "put" or op.outcome != "ok" or op.value is None:
            continue
        before = steps.setdefault(count(op.value), op)
        if before is not op:
            yield Violation("counted", key, f"two increments to one count: {before} / {op}")
    reads = [op for op in operations if op.kind == "quorum_get" and op.outcome in ("ok", "not_found")]
    if not reads or not steps:
        return
    last = max(reads, key=lambda op: op.invoked_ns)
    stands = 0 if last.value is None else count(last.value)
    done = [op for op in steps.values() if op.returned_ns < last.invoked_ns]
    possible = sum(op.kind == "put" and op.outcome in ("ok", "unknown") for op in operations)
    if stands < len(done) or stands < max((count(op.value or "0") for op in done), default=0):
        yield Violation(
            "counted", key, f"{len(done)} increments were acknowledged, and {stands} stand: {last}"
        )
    if stands > possible:
        yield Violation("counted", key, f"{possible} increments were tried, and {stands} stand: {last}")
