"""The promise `watched`: a watch never goes back, and reports the final state in the end.

The times of an entry are the beginning of its watch, and the moment at which it was told.
"""

from collections.abc import Iterable, Iterator

from histories.record import History, Operation
from histories.verdict import Verdict, Violation


def check(history: History) -> Verdict:
    """Of keys of which nothing is deleted. The watches went on until the cluster was at rest."""
    watches: dict[tuple[str, str, int], list[Operation]] = {}
    final: dict[str, Operation] = {}
    for op in history:
        if op.kind == "watch":
            watches.setdefault((op.client, op.key, op.invoked_ns), []).append(op)
        elif op.kind == "put" and op.outcome == "ok" and op.version > _version(final.get(op.key)):
            final[op.key] = op
    violations = [violation for (_, key, _), told in watches.items() for violation in _goes_back(key, told)]
    last: dict[tuple[str, str], Operation] = {}
    for told in watches.values():
        for op in told:
            before = last.get((op.client, op.key))
            if before is None or before.returned_ns < op.returned_ns:
                last[op.client, op.key] = op
    violations += [
        Violation("watched", key, f"the last that was told is older than what stands: {op} / {final[key]}")
        for (_, key), op in last.items()
        if op.version < _version(final.get(key))
    ]
    return Verdict(tuple(violations))


def _goes_back(key: str, told: Iterable[Operation]) -> Iterator[Violation]:
    before: Operation | None = None
    for op in sorted(told, key=lambda op: op.returned_ns):
        if before is not None and op.version < before.version:
            yield Violation("watched", key, f"a watch went back: {before} / {op}")
        before = op


def _version(op: Operation | None) -> int:
    return 0 if op is None else op.version
