"""One batch through several implementations, and every packet on which one differs from the first."""

from collections.abc import Sequence
from typing import NamedTuple

from kdht.replay._capture import Batch, Frame
from kdht.replay._engine import Judgement
from kdht.replay.base import Implementation, Run
from kdht.replay.seen import Seen, contradiction, is_comparable
from kdht.replay.tables import ReplayTable
from kdht.wire._shared import VERDICT_OF, Reason


class Difference(NamedTuple):
    """Two implementations that do not agree about one packet."""

    frame: Frame
    packet: bytes
    """As both got it, from its IP header on."""
    now: int
    """The unix second of both verdicts."""
    names: tuple[str, str]
    """The reference, and who differs from it."""
    judgements: tuple[Judgement, Judgement]
    what: str
    """In words."""
    seen: Seen | None


class BatchComparison(NamedTuple):
    """What one batch gave."""

    usual: Run
    """The reference's."""
    incomparable: list[int]
    """Packets that each of the others could not be compared on."""
    differences: list[Difference]
    """In the order of the others."""


def compared(
    batch: Batch, table: ReplayTable, reference: Implementation, others: Sequence[Implementation]
) -> BatchComparison:
    """One batch through all.

    A live implementation has a clock of its own, so the reference judges for it again what it
    was sent, at the second at which it was sent.
    """
    usual = reference.run(batch, table.now)
    found = BatchComparison(usual, [], [])
    for other in others:
        theirs = other.run(batch, table.now)
        same = theirs.results.batch is batch
        expected = usual if same else reference.run(theirs.results.batch, theirs.now)
        incomparable, where = _where(table, expected, theirs)
        found.incomparable.append(incomparable)
        found.differences.extend(
            _difference((reference.name, other.name), expected, theirs, index, what) for index, what in where
        )
    return found


def _difference(names: tuple[str, str], expected: Run, theirs: Run, index: int, what: str) -> Difference:
    batch = theirs.results.batch
    frame = batch.frame(index)
    return Difference(
        frame,
        batch.packet(index),
        theirs.now if theirs.now is not None else frame.nanos // 1_000_000_000,
        names,
        (expected.results.get(index), theirs.results.get(index)),
        what,
        theirs.seen[index] if theirs.seen else None,
    )


def _where(table: ReplayTable, expected: Run, theirs: Run) -> tuple[int, list[tuple[int, str]]]:
    """How many packets cannot be compared, and where the others differ, in words."""
    if theirs.seen is None:
        unable = expected.results.tally().get(None, 0) + theirs.results.tally().get(None, 0)
        indices = expected.results.differences(theirs.results)
        return unable, [(i, in_words(expected.results.get(i), theirs.results.get(i))) for i in indices]
    incomparable, found = 0, []
    for index, seen in enumerate(theirs.seen):
        judgement = expected.results.get(index)
        if not is_comparable(table.own, theirs.results.batch.packet(index), judgement, seen):
            incomparable += judgement.reason is not Reason.NOT_OURS or seen.what != "nothing"
        elif what := contradiction(judgement, seen):
            found.append((index, what))
    return incomparable, found


def in_words(one: Judgement, other: Judgement) -> str:
    """What two judgements differ in."""
    assert one.reason is not None
    assert other.reason is not None
    if VERDICT_OF[one.reason] != VERDICT_OF[other.reason]:
        return f"{VERDICT_OF[one.reason].name} against {VERDICT_OF[other.reason].name}"
    if one.reason != other.reason:
        return f"{one.reason.name} against {other.reason.name}"
    if one.data != other.data:
        from kdht.replay.dissect import changes

        names = [change.field for change in changes(one.data, other.data)]
        return f"other bytes in {', '.join(names) or 'the packet'}"
    if one.next_id != other.next_id:
        return "another next hop"
    if one.action != other.action and (one.action or other.action):
        return f"the XDP action {other.action or one.action} does not belong to the reason"
    return f"largest reply {one.max_reply} against {other.max_reply}"
