"""Whether reads at the owners of hot keys, quorum reads and conditional writes have an order.

Two checks of one thing. `old` needs no search: it names each read that is older than a write acknowledged before it
began. `linear.search` tries orders of all operations of a key.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf

from histories.hot.owners import Span
from histories.hot.readers import Read
from histories.hot.writers import Write
from histories.linear import Step, search
from histories.verdict import Verdict, Violation, joined
from kdht.wire._shared import Status

ANSWERS = frozenset({Status.OK, Status.NOT_FOUND})
FIRST = 0
"""The mark of each key's record from before the history: the state in which a search begins."""
UNHEARD_OF = -1
"""A state that no step sets."""


def at_owners(reads: Iterable[Read], spans: Sequence[Sequence[Span]], nodes: Mapping[int, str]) -> list[Read]:
    """Those that the key's sure owner answered itself, with a record or without. `nodes`: by IPv4 address."""
    begins = [[span.begin for span in each] for each in spans]
    found = []
    for read in reads:
        index = bisect_right(begins[read.key], read.begun) - 1
        if index < 0:
            continue
        span = spans[read.key][index]
        if read.ended <= span.end and nodes[read.source] == span.owner and read.status in ANSWERS:
            found.append(read)
    return found


def check(reads: Sequence[Read], firm: Sequence[Read], writes: Sequence[Write], keys: int) -> Verdict:
    """`reads`: all; `firm`: those of `at_owners`. Of none may the value be nobody's."""
    of_reads: dict[int, list[Read]] = defaultdict(list)
    of_writes: dict[int, list[Write]] = defaultdict(list)
    for read in firm:
        of_reads[read.key].append(read)
    for write in writes:
        of_writes[write.key].append(write)
    verdicts = [Verdict(tuple(written(reads, writes)))]
    for key in range(keys):
        verdicts.append(Verdict(tuple(old(key, of_reads[key], of_writes[key]))))
        verdicts.append(_searched(key, of_reads[key], of_writes[key]))
    return joined(verdicts)


def written(reads: Iterable[Read], writes: Iterable[Write]) -> Iterator[Violation]:
    """Every value read is one that a client wrote, under one version, and its write had begun."""
    begun = {(write.key, write.mark): write.begun for write in writes if write.condition is not None}
    refused = {(write.key, write.mark) for write in writes if write.outcome in ("conflict", "refused")}
    versions: dict[tuple[int, int], int] = {}
    for read in reads:
        if read.status != Status.OK:
            continue
        what = (read.key, read.mark)
        if read.mark != FIRST and begun.get(what, inf) > read.ended:
            yield Violation("written", str(read.key), f"nobody had written what was read: {read}")
        if what in refused:
            yield Violation("refused", str(read.key), f"refused, and read: {read}")
        if versions.setdefault(what, read.version) != read.version:
            yield Violation("one-record", str(read.key), f"two versions of one value: {read}")


def old(key: int, reads: Iterable[Read], writes: Iterable[Write]) -> Iterator[Violation]:
    """Reads of a version below one that was acknowledged before they began."""
    done = sorted((write.ended, write.version) for write in writes if write.outcome == "ok" and write.version)
    ends, newest = [end for end, _ in done], list(accumulate((version for _, version in done), max))
    for read in reads:
        count = bisect_right(ends, read.begun)
        if count and read.version < newest[count - 1]:
            yield Violation("order", str(key), f"version {newest[count - 1]} was there before: {read}")


def _searched(key: int, reads: Sequence[Read], writes: Sequence[Write]) -> Verdict:
    result = search(list(steps(reads, writes)))
    if result.linearizable is None:
        return Verdict(undecided=(f"linearizable: key {key}",))
    if result.linearizable:
        return Verdict()
    assert result.stuck is not None
    return Verdict((Violation("linearizable", str(key), f"no order: stuck at {result.stuck[1]}"),))


def steps(reads: Sequence[Read], writes: Sequence[Write]) -> Iterator[Step]:
    """For `linear.search`. A value's mark is its state."""
    marks = {write.version: write.mark for write in writes if write.version}
    marks.update((read.version, read.mark) for read in reads if read.status == Status.OK)
    yield from deciding(Step(read.begun, read.ended, _state(read), None) for read in reads)
    for write in writes:
        if write.condition is None:
            yield Step(write.begun, write.ended, write.mark if write.version else UNHEARD_OF, None)
        elif write.outcome in ("ok", "unknown"):
            doubt = write.outcome == "unknown"
            needs = marks.get(write.condition, UNHEARD_OF)
            yield Step(write.begun, inf if doubt else write.ended, needs, write.mark, doubt)


def deciding(reads: Iterable[Step]) -> list[Step]:
    """Two reads of each state stand for all: the one that ends first and the one that begins last.

    A state is set once, so it holds from one moment to another. A read fits if it begins before the second and ends after
    the first. All do if these two do (Gibbons and Korach, "Testing shared memories", 1997).
    """
    first: dict[int | None, Step] = {}
    last: dict[int | None, Step] = {}
    for read in reads:
        if read.end < first.setdefault(read.needs, read).end:
            first[read.needs] = read
        if read.start > last.setdefault(read.needs, read).start:
            last[read.needs] = read
    return list({*first.values(), *last.values()})


def _state(read: Read) -> int:
    return read.mark if read.status == Status.OK else UNHEARD_OF
