"""Promises to one client: `monotonic`, `own-writes` and `own-deletes`. They hold for GET too.

After a client saw or wrote a record, it sees no older one. After its own deletion it does not see the
deleted record.
"""

from collections.abc import Iterable, Iterator

from histories.record import History, Operation
from histories.verdict import Promise, Verdict, Violation
from kdht.client._reads import LOST


def check(history: History) -> Verdict:
    sessions: dict[tuple[str, str], list[Operation]] = {}
    deletes: dict[str, list[Operation]] = {}
    puts: dict[tuple[str, str], Operation] = {}
    for op in history:
        if op.kind == "watch":  # `watches` has its promise: one watch goes forward
            continue
        sessions.setdefault((op.client, op.key), []).append(op)
        if op.kind == "delete" and op.outcome in ("ok", "not_found", "unknown"):
            deletes.setdefault(op.key, []).append(op)
        elif op.kind == "put" and op.value is not None:
            puts[op.key, op.value] = op
    violations = [
        violation
        for (_, key), operations in sessions.items()
        for violation in _session(key, operations, deletes.get(key, ()), puts)
    ]
    return Verdict(tuple(violations))


def _session(
    key: str,
    operations: Iterable[Operation],
    deletes: Iterable[Operation],
    puts: dict[tuple[str, str], Operation],
) -> Iterator[Violation]:
    """What one client saw of one key."""
    operations = sorted(operations, key=lambda op: op.invoked_ns)
    ended = sorted((op for op in operations if _tells(op)), key=lambda op: op.returned_ns)
    index = 0
    seen: Operation | None = None
    own_delete: Operation | None = None
    for op in operations:
        while index < len(ended) and ended[index].returned_ns < op.invoked_ns:
            before = ended[index]
            index += 1
            if before.outcome not in _FIRM:
                seen = own_delete = None
            elif before.kind == "delete":
                own_delete = before
            elif before.outcome == "ok" and (seen is None or before.version > seen.version):
                seen = before
        if op.is_write or op.outcome not in _FIRM:
            continue
        if op.outcome == "ok":
            yield from _older(key, op, seen)
            yield from _deleted(key, op, own_delete, puts)
        elif seen is not None and not _may_be_deleted(seen, op, deletes, puts):
            yield Violation("monotonic", key, f"was there, and nobody deleted it: {seen} / {op}")


_FIRM = frozenset({"ok", "not_found"})


def _tells(op: Operation) -> bool:
    """Whether later reads of this client depend on it.

    So they do on a read that failed because all replicas had only an older record than the client knew. The client was told,
    and its next read takes that record (docs/guarantees.md).
    """
    return op.outcome in _FIRM or (not op.is_write and LOST in op.error)


def _older(key: str, op: Operation, seen: Operation | None) -> Iterator[Violation]:
    if seen is not None and op.version < seen.version:
        promise: Promise = "own-writes" if seen.kind == "put" else "monotonic"
        yield Violation(promise, key, f"went back: {seen} / {op}")


def _deleted(
    key: str, op: Operation, deleted: Operation | None, puts: dict[tuple[str, str], Operation]
) -> Iterator[Violation]:
    """A value whose write had been acknowledged when the client began to delete it."""
    put = puts.get((key, op.value or ""))
    if deleted is None or put is None or put.outcome != "ok":
        return
    if put.returned_ns < deleted.invoked_ns:
        yield Violation("own-deletes", key, f"deleted, and read: {deleted} / {op}")


def _may_be_deleted(
    seen: Operation,
    op: Operation,
    deletes: Iterable[Operation],
    puts: dict[tuple[str, str], Operation],
) -> bool:
    """Whether somebody may have deleted the seen record: not before it was written, and not after `op`."""
    put = puts.get((seen.key, seen.value or ""))
    return any(
        deletion.invoked_ns < op.returned_ns
        and (put is None or deletion.outcome == "unknown" or deletion.returned_ns > put.invoked_ns)
        for deletion in deletes
    )
