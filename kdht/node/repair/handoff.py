"""Records given to the nodes that should keep them, because this node leaves or got them by chance.

Contract: a record is dropped here only after each of the r nodes that should keep it, or all there are, said that it has
this version or a newer one. Other records stay, and are counted as `left`. One batch runs at a time. Nothing but the stores
is remembered between two runs, so a run may be broken off and started again.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from kdht.errors import BadPacket
from kdht.node.messages import Reply
from kdht.node.repair import bodies
from kdht.node.repair.bodies import MAX_OFFERS, NO_SPAN, Offer, Offered, Want
from kdht.node.repair.compare import offered
from kdht.node.repair.context import RepairContext
from kdht.node.repair.digests import SEEK, chunk
from kdht.node.repair.intervals import Interval
from kdht.node.repair.push import Pusher
from kdht.node.repair.ranges import number
from kdht.node.repair.work import Steps
from kdht.node.rpc import Rpc
from kdht.storage import StoredRecord
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import Op, Status

# A few offers for each target. What fails is lost work for one batch only.
BATCH = 64
"""Records in one batch."""


class _Parcel:
    """A record, and the nodes that have not yet said that they have it."""

    def __init__(self, offer: Offered, targets: Iterable[bytes]) -> None:
        self.offer = offer
        self.waiting = set(targets)


class KeepingNodes:
    """The other nodes that may keep records: the contacts in the table."""

    def __init__(self, context: RepairContext) -> None:
        self._context = context

    def closest(self, key: bytes) -> list[Contact]:
        """The r nodes that should keep a key, or all there are."""
        return self._context.node.table.closest(key, self._context.replicas)

    def is_own(self, key: bytes) -> bool:
        """Whether this node keeps the key after all, or still holds it."""
        view = self._context.view
        return (view is not None and key in view.keys) or key in self._context.caught_up.keys.held

    def silent(self, contact: Contact) -> None:
        """A contact did not answer an OFFER. The table finds out by its own probes."""


class Handoff:
    """One run over `spans`; `ended(left, now)` is called once."""

    def __init__(
        self,
        context: RepairContext,
        pusher: Pusher,
        others: KeepingNodes,
        spans: Iterable[Interval],
        ended: Callable[[int, SteadyTime], None],
    ) -> None:
        self.left = 0
        """Records seen that could not be given away."""
        self.given = 0
        self.brought = 0
        """Records that some node did not have yet."""
        self._context = context
        self._pusher = pusher
        self._others = others
        self._spans = deque(spans)
        self._ended = ended
        self._parcels: dict[bytes, _Parcel] = {}
        self._under_way = 0

    def step(self, now: SteadyTime) -> None:
        """Take the next batch."""
        if self._spans:
            self._context.work.start(self._next_batch(), self._offer_all, now)
        else:
            self._ended(self.left, now)

    def _next_batch(self) -> Steps[list[tuple[bytes, StoredRecord]]]:
        """The next records. Empty spans are skipped."""
        records: list[tuple[bytes, StoredRecord]] = []
        while self._spans and not records:
            start, stop = self._spans.popleft()
            records = chunk(self._context.store, self._context.unix(), start, stop, BATCH)
            if len(records) == BATCH:
                self._spans.appendleft((number(records[-1][0]) + 1, stop))
            yield SEEK + len(records)
        return records

    def _offer_all(self, records: list[tuple[bytes, StoredRecord]] | None, now: SteadyTime) -> None:
        if not records:
            if records is None:
                self.left += 1
                self._spans.clear()
            self._context.node.timers.at(now, self.step)
            return
        by_target: dict[Contact, list[Offered]] = {}
        for key, record in records:
            # The view changed meanwhile: this node keeps the record again.
            if self._others.is_own(key):
                continue
            targets = self._others.closest(key)
            if not targets:
                self.left += 1
                continue
            parcel = self._parcels[key] = _Parcel(offered(key, record), (target.id for target in targets))
            for target in targets:
                by_target.setdefault(target, []).append(parcel.offer)
        # For this function itself: an offer may end before the next one is made.
        self._under_way = 1
        for target, offers in by_target.items():
            for at in range(0, len(offers), MAX_OFFERS):
                self._offer(target, offers[at : at + MAX_OFFERS], now)
        self._one_ended(now)

    def _offer(self, target: Contact, offers: list[Offered], now: SteadyTime) -> None:
        body = bodies.pack_offer(Offer(*NO_SPAN, offers))
        if self._context.ask(Op.OFFER, target.id, target, body, partial(self._answered, target, offers), now):
            self._under_way += 1
            self._context.counters["offers_sent"] += 1
            self._context.counters["records_offered"] += len(offers)

    def _answered(
        self, target: Contact, offers: list[Offered], rpc: Rpc, reply: Reply | None, now: SteadyTime
    ) -> None:
        wants: list[Want] = []
        if reply is None:
            self._others.silent(target)
        if reply is not None and reply.status is Status.OK:
            try:
                wants, _ = bodies.untrusted_wants(reply.body, len(offers))
            except BadPacket:
                self._context.counters["unreadable"] += 1
        # Without an answer there are no wants, and each record waits for its node for ever: it stays here.
        for offer, want in zip(offers, wants, strict=False):
            if want is Want.HAS:
                self._parcels[offer.key].waiting.discard(target.id)
            elif want is Want.WANTED:
                self.brought += 1
                self._under_way += 1
                self._pusher.push(target, offer.key, partial(self._pushed, target.id, offer.key), now)
        self._one_ended(now)

    def _pushed(self, target: bytes, key: bytes, good: bool, now: SteadyTime) -> None:
        if good:
            self._parcels[key].waiting.discard(target)
        self._one_ended(now)

    def _one_ended(self, now: SteadyTime) -> None:
        self._under_way -= 1
        if self._under_way:
            return
        parcels, self._parcels = self._parcels, {}
        # All of them, not a majority: this copy may be one of the few that a write was confirmed by.
        done = [p.offer for p in parcels.values() if not p.waiting]
        # Asked again: while the offers were out, this node may have become a replica.
        gone = [offer for offer in done if not self._others.is_own(offer.key)]
        self.left += len(parcels) - len(done)
        self.given += len(gone)
        if gone:
            self._context.counters["records_dropped"] += len(gone)
            self._context.drop([(offer.key, offer.version) for offer in gone])
        self._context.node.timers.at(now, self.step)
