"""One batch through several implementations, and every packet on which one differs from the first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kdht._shared import VERDICT_OF
from kdht.replay._capture import Batch, Frame
from kdht.replay._engine import Judgement
from kdht.replay.implementations import Implementation, Run
from kdht.replay.seen import Seen, contradiction


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


def compared(
    batch: Batch, now: int | None, reference: Implementation, others: Sequence[Implementation]
) -> tuple[Run, list[Run], list[Difference]]:
    """The runs of all, and the differences in the order of the others.

    A live implementation has a clock of its own, so the reference judges for it again what it
    was sent, at the second at which it was sent.
    """
    usual = reference.run(batch, now)
    runs, found = [], []
    for other in others:
        theirs = other.run(batch, now)
        expected = usual if theirs.results.batch is batch else reference.run(theirs.results.batch, theirs.now)
        runs.append(theirs)
        found += list(_between(reference.name, expected, other.name, theirs))
    return usual, runs, found


def _between(name: str, expected: Run, other_name: str, theirs: Run) -> Iterator[Difference]:
    batch = theirs.results.batch
    for index, what in _where(expected, theirs):
        frame = batch.frame(index)
        yield Difference(
            frame,
            batch.packet(index),
            theirs.now if theirs.now is not None else frame.nanos // 1_000_000_000,
            (name, other_name),
            (expected.results.get(index), theirs.results.get(index)),
            what,
            theirs.seen[index] if theirs.seen else None,
        )


def _where(expected: Run, theirs: Run) -> Iterator[tuple[int, str]]:
    if theirs.seen is None:
        for index in expected.results.differences(theirs.results):
            yield index, in_words(expected.results.get(index), theirs.results.get(index))
        return
    batch = theirs.results.batch
    for index, seen in enumerate(theirs.seen):
        what = contradiction(batch.packet(index), expected.results.get(index), seen)
        if what:
            yield index, what


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
