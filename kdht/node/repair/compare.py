"""One comparison with another replica: digests down to few records, then offers, then records.

    ranges --DIGEST--> equal: done
       |  `- differ, many records: split in sixteen, and again
       `---- differ, few records, or the other node has less than half of them: OFFER ---> records are pushed

Equal ranges cost their part of one request and one reply. If the other node has less than half as many records, all are
offered at once: splitting would find no equal parts. If this node has less than half, it does nothing, because the other
one saw the same digests and offers its own. From a node that is no replica, this node only takes records.

Merkle trees over key ranges are from Demers et al., "Epidemic Algorithms for Replicated Database Maintenance", 1987, and
DeCandia et al., "Dynamo", 2007.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from kdht.errors import BadPacket, StorageError
from kdht.node._timers import Alarm
from kdht.node.messages import Reply
from kdht.node.repair import bodies
from kdht.node.repair.bodies import (
    KEEPS,
    MAX_OFFERS,
    MAX_RANGES,
    Digest,
    Lack,
    Offer,
    Offered,
    Report,
    Want,
    fitting,
)
from kdht.node.repair.context import RepairContext
from kdht.node.repair.digests import STEP, chunk, mark
from kdht.node.repair.intervals import Interval
from kdht.node.repair.push import Pusher
from kdht.node.repair.ranges import Range, number
from kdht.node.repair.work import Steps
from kdht.node.rpc import Rpc
from kdht.storage import StoredRecord
from kdht.storage.versions import is_possible_version
from kdht.times import SteadyTime
from kdht.wire._shared import ID_BITS, Op, Status

WAIT = 0.25
"""Seconds between looks at the records that this node waits for."""
# Short, because a pause in the offers would be a pause in the records.
FULL_WAIT = 0.02
"""Seconds until offers go on, while enough records wait to be sent."""
# One offer at a time would move a few dozen records for each round trip, whatever the window allows.
MAX_UNDER_WAY = 16
"""Offers under way. Each may move as many records as it names."""
# Three seconds: as long as a record counts as coming.
LACK_LOOKS = 12
"""After so many looks, records that the other node should have brought count as missing."""

BARE = Report(Digest(0, 0), 0, ())
"""For a part of a range on which the other node has had a report already."""


class RangeComparison:
    """A comparison of `ranges` with `peer`. `ended(comparison, now)` is called once."""

    def __init__(
        self,
        context: RepairContext,
        pusher: Pusher,
        peer: bytes,
        ranges: Sequence[Range],
        ended: Callable[["RangeComparison", SteadyTime], None],
    ) -> None:
        self.peer = peer
        self.ranges = tuple(ranges)
        self.failed = False
        """Whether it broke off."""
        self.silent = False
        """Whether it broke off because the other node, or its disk, did not answer."""
        self.sound: list[Range] = []
        """Ranges on which the other node had caught up, and agreed with this one, before they were compared."""
        self.epoch = context.caught_up.epoch
        """The epoch of `CaughtUp` at the start."""
        self.unfinished = False
        """Whether the other node may still lack records."""
        self.open: list[Interval] = []
        """Keys for which this node may still lack records."""
        self._context = context
        self._pusher = pusher
        self._ended = ended
        self._todo = deque(ranges)
        self._spans: deque[Interval] = deque()
        self._lacks: list[Lack] = []
        self._offers = 0
        """Under way."""
        self._looks = 0
        self._pushing = 0
        self._over = False
        self._alarm: Alarm | None = None
        self._whole = frozenset(ranges)
        view = context.view
        self._is_partner = view is not None and peer in view.peers

    @property
    def complete(self) -> bool:
        return not (self.failed or self.unfinished or self.open)

    def step(self, now: SteadyTime) -> None:
        """Do what comes next."""
        if self._over:
            return
        # It left the table, so no request would reach it.
        if self._context.contact(self.peer) is None:
            self._fail(now, silent=True)
        elif self._spans and self._offers >= MAX_UNDER_WAY:
            pass  # an answer goes on
        # More offers would only fill the queue; the other node would wait for records that come late.
        elif self._spans and self._pusher.is_full:
            self._later(FULL_WAIT, now)
        elif self._spans:
            self._offers += 1
            self._context.work.start(self._next_offer(*self._spans.popleft()), self._offer, now)
        elif self._offers:
            pass  # the same
        elif self._todo:
            ranges = [self._todo.popleft() for _ in range(min(len(self._todo), MAX_RANGES))]
            words = [self._context.word(part, self.peer) if part in self._whole else BARE for part in ranges]
            self._context.work.start(
                digests_of(self._context, ranges), partial(self._digest, ranges, words), now
            )
        elif self._pushing:
            pass  # the last one's end goes on
        elif self._lacks and self._is_waiting():
            self._later(WAIT, now)
        else:
            self._over = True
            self._ended(self, now)

    def _later(self, seconds: float, now: SteadyTime) -> None:
        timers = self._context.node.timers
        if self._alarm is not None:
            timers.cancel(self._alarm)
        self._alarm = timers.at(now + seconds, self.step)

    def abandon(self, now: SteadyTime, *, silent: bool) -> None:
        """End it; `silent`: the other node is gone."""
        self._fail(now, silent=silent)

    def _fail(self, now: SteadyTime, *, silent: bool = False) -> None:
        if not self._over:
            self._over = self.failed = True
            self.silent = silent
            self.open = [(part.start, part.stop) for part in self.ranges]
            self._ended(self, now)

    # Digests

    def _digest(
        self, ranges: list[Range], words: list[Report], own: list[Digest] | None, now: SteadyTime
    ) -> None:
        if self._over:
            return
        contact = self._context.contact(self.peer)
        if own is None or contact is None:
            self._fail(now, silent=contact is None)
            return
        reports = [word._replace(digest=digest) for word, digest in zip(words, own, strict=True)]
        fits = fitting(reports)
        # Those that do not fit come next, in their order.
        self._todo.extendleft(reversed(ranges[fits:]))
        del ranges[fits:], own[fits:], reports[fits:]
        self._context.counters["digests_sent"] += 1
        body = bodies.pack_ranges(self._context.factor.own, list(zip(ranges, reports, strict=True)))
        done = partial(self._digested, ranges, own)
        if not self._context.ask(Op.DIGEST, self.peer, contact, body, done, now):
            self._fail(now)

    def _digested(
        self, ranges: list[Range], own: list[Digest], rpc: Rpc, reply: Reply | None, now: SteadyTime
    ) -> None:
        if self._over:
            return
        reports = self._reports(reply, len(ranges))
        if reports is None:
            busy = reply is not None and reply.status is Status.BUSY
            self._fail(now, silent=not busy)
            return
        for part, mine, report in zip(ranges, own, reports, strict=True):
            if part in self._whole:
                if self._context.hear(self.peer, part, report, self.epoch):
                    self.sound.append(part)
                self._context.note_gap(part, mine, report)
            if mine != report.digest:
                self._context.counters["ranges_differed"] += 1
                self._differs(part, mine.records, report)
        self.step(now)

    def _differs(self, part: Range, mine: int, report: Report) -> None:
        theirs = report.digest.records
        # A node that is no replica gets nothing. Its records are taken, because one may be the newest.
        wanted = self._is_partner or bool(report.says & KEEPS)
        if not wanted and not theirs:
            return
        if max(mine, theirs) <= MAX_OFFERS or part.bits > ID_BITS - STEP:
            self._spans.append((part.start, part.stop))
        # The other one sees the same digests, and offers its records by itself.
        elif has_most(theirs, mine):
            self.open.append((part.start, part.stop))
        elif has_most(mine, theirs) and wanted:
            self._spans.append((part.start, part.stop))
        else:
            # At the borders of digests that are kept, so that the halves need no reading.
            self._todo.extend(part.split((part.bits // STEP + 1) * STEP))

    def _reports(self, reply: Reply | None, expected: int) -> list[Report] | None:
        if reply is None or reply.status is not Status.OK:
            return None
        try:
            replicas, reports = bodies.untrusted_reports(reply.body, expected)
        except BadPacket:
            self._context.counters["unreadable"] += 1
            return None
        self._context.others_replicas(self.peer, replicas)
        return reports

    # Offers

    def _next_offer(self, start: int, stop: int) -> Steps[Offer]:
        """The next records of a span; what is left of it goes back."""
        # One more than fits, to see whether anything is left.
        records = chunk(self._context.store, self._context.unix(), start, stop, MAX_OFFERS + 1)
        yield len(records)
        last = stop - 1
        if len(records) > MAX_OFFERS:
            last = number(records[MAX_OFFERS - 1][0])
            self._spans.appendleft((last + 1, stop))
        own = [offered(*record) for record in records[:MAX_OFFERS]]
        return Offer(start, last, own + self._coming(start, last + 1, own)[: MAX_OFFERS - len(own)])

    def _coming(self, start: int, stop: int, own: list[Offered]) -> list[Offered]:
        """What others bring just now, as if it were here: else the other node would bring it as well."""
        has = {each.key for each in own}
        coming = self._context.coming.within(start, stop, self._context.node.timers.now)
        return [each for each in coming if each.key not in has]

    def _offer(self, offer: Offer | None, now: SteadyTime) -> None:
        if self._over:
            return
        contact = self._context.contact(self.peer)
        if offer is None or contact is None:
            self._fail(now, silent=contact is None)
            return
        self._context.counters["offers_sent"] += 1
        self._context.counters["records_offered"] += len(offer.offered)
        done = partial(self._offer_answered, offer)
        if not self._context.ask(Op.OFFER, self.peer, contact, bodies.pack_offer(offer), done, now):
            self._fail(now)
        elif self._spans:
            self.step(now)

    def _offer_answered(self, offer: Offer, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        if self._over:
            return
        self._offers -= 1
        contact = self._context.contact(self.peer)
        if reply is None or reply.status is not Status.OK or contact is None:
            self._fail(now, silent=reply is None or reply.status is not Status.BUSY)
            return
        try:
            wants, lacks = bodies.untrusted_wants(reply.body, len(offer.offered))
        except BadPacket:
            self._context.counters["unreadable"] += 1
            self._fail(now)
            return
        lacks = self._believable(lacks)
        # Waited for below: catching up is over when they are here, not when they were promised.
        self._lacks += lacks
        for lack in lacks:
            self._context.coming.note(Offered(lack.key, lack.version, 0), now)
        for offered, want in zip(offer.offered, wants, strict=True):
            if want is Want.WANTED:
                self._pushing += 1
                self._pusher.push(contact, offered.key, self._pushed, now)
            elif want is not Want.HAS:
                self.unfinished = True
        self.step(now)

    def _believable(self, lacks: list[Lack]) -> list[Lack]:
        """Those that the other node can bring: one with an impossible version would be waited for in vain."""
        latest = self._context.latest()
        found = [lack for lack in lacks if is_possible_version(lack.version, latest)]
        self._context.counters["versions_ahead"] += len(lacks) - len(found)
        return found

    def _pushed(self, good: bool, now: SteadyTime) -> None:
        self._pushing -= 1
        self.unfinished |= not good
        if not self._pushing:
            # Not at once: `_pushed` may be called from within `step`.
            self._context.node.timers.at(now, self.step)

    # What the other node brings

    def _is_waiting(self) -> bool:
        """Whether something is missing still that may come yet."""
        self._lacks = [lack for lack in self._lacks if not self._has(lack)]
        self._looks += 1
        if self._lacks and self._looks > LACK_LOOKS:
            # Not caught up on these keys; the plan compares them again.
            self.open += [(number(lack.key), number(lack.key) + 1) for lack in self._lacks]
            self._lacks = []
        return bool(self._lacks)

    def _has(self, lack: Lack) -> bool:
        try:
            record = self._context.store.get(lack.key, self._context.unix())
        except StorageError:
            self._context.counters["storage_failed"] += 1
            return False
        return record is not None and record.version >= lack.version


def digests_of(context: RepairContext, ranges: Sequence[Range]) -> Steps[list[Digest]]:
    """The digest of each range."""
    found = []
    for part in ranges:
        digest = yield from context.digests.of(part)
        found.append(digest)
    return found


def offered(key: bytes, record: StoredRecord) -> Offered:
    """What an OFFER says of a record."""
    return Offered(key, record.version, mark(key, record) & 0xFFFFFFFF)


def has_most(one: int, other: int) -> bool:
    """Whether a node with `one` records in a range, where the other has `other`, just offers them all."""
    return one > MAX_OFFERS and other * 2 < one
