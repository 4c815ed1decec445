"""The other side of a comparison: this node's answers to DIGEST and OFFER, and what follows here.

Contract: an answer leaves once the store was read, which takes several slices (`work`). A repeated request whose answer is
being made starts nothing new. The number of waiting requests is bounded. A node that is seen to lack a record is brought
it, if it is a replica as this node sees the cluster.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from kdht.datapath.base import Datagram
from kdht.node.repair import bodies
from kdht.node.repair.bodies import MAX_LACKS, Digest, Lack, Offer, Offered, Report, Want
from kdht.node.repair.compare import BARE, digests_of, has_most, offered
from kdht.node.repair.context import RepairContext
from kdht.node.repair.digests import chunk
from kdht.node.repair.push import Pusher
from kdht.node.repair.ranges import Range, number
from kdht.node.repair.work import Steps
from kdht.storage.room import Pressure
from kdht.storage.versions import is_possible_version
from kdht.times import SteadyTime
from kdht.wire import Contact, Message
from kdht.wire._shared import Op, Status

# A neighbour compares one thing at a time, so more than this come from very many neighbours or from a liar.
MAX_WAITING = 64
"""At most so many requests are being answered; others are BUSY."""
# The reply has room for a few dozen lacks. Reading on would only block the thread.
MAX_SPAN = 256
"""Records in the span of an OFFER that are compared at most."""

Respond = Callable[[Message, Datagram, bytes, Status, SteadyTime], None]
"""Sends a reply. The node's ID is put before the body."""


class Compared(Protocol):
    """Called with what a DIGEST has shown."""

    def found_equal(
        self, peer: bytes, ranges: list[Range], sound: list[Range], epoch: int, now: SteadyTime
    ) -> None: ...

    def found_lacking(self, peer: bytes, ranges: list[Range], now: SteadyTime) -> None: ...


class RangeAnswers:
    """The answers of one node."""

    def __init__(self, context: RepairContext, pusher: Pusher, compared: Compared, respond: Respond) -> None:
        self._context = context
        self._pusher = pusher
        self._compared = compared
        self._respond = respond
        self._waiting: set[tuple[bytes, int]] = set()
        self._answer = {Op.DIGEST: self._digest, Op.OFFER: self._offer}

    def untrusted(self, message: Message, sender: Contact, datagram: Datagram, now: SteadyTime) -> None:
        """A DIGEST or OFFER, whose body follows its sender's ID. Raises BadPacket."""
        place = sender.id, message.request_id
        # A repetition. The answer is on its way, so no second one is made.
        if place in self._waiting:
            return
        # Each answer reads the store, so their number is bounded.
        if self._context.view is None or len(self._waiting) >= MAX_WAITING:
            self._respond(message, datagram, b"", Status.BUSY, now)
            return
        steps, done = self._answer[message.op](message, sender)

        def made(result: object, now: SteadyTime) -> None:
            self._waiting.discard(place)
            if result is None:
                self._respond(message, datagram, b"", Status.STORAGE_FAILED, now)
            else:
                self._respond(message, datagram, done(result, now), Status.OK, now)

        self._waiting.add(place)
        self._context.work.start(steps, made, now)

    # DIGEST

    def _digest(self, message: Message, sender: Contact) -> tuple[Steps[object], Callable[..., bytes]]:
        replicas, asked = bodies.untrusted_ranges(message.body[len(sender.id) :])
        context = self._context
        context.counters["digests_answered"] += 1
        context.others_replicas(sender.id, replicas)
        # Noted before the store is read: a reset meanwhile makes the result worthless.
        epoch = context.caught_up.epoch
        sound = [
            part for part, report in asked if report.keepers and context.hear(sender.id, part, report, epoch)
        ]
        # Before the digest, too: what is said of the state must hold for all records that the digest sums up.
        words = [context.word(part, sender.id) if report.keepers else BARE for part, report in asked]
        done = partial(self._digested, sender.id, asked, words, sound, epoch)
        return digests_of(context, [part for part, _ in asked]), done

    def _digested(
        self,
        peer: bytes,
        asked: list[tuple[Range, Report]],
        words: list[Report],
        sound: list[Range],
        epoch: int,
        own: list[Digest],
        now: SteadyTime,
    ) -> bytes:
        compared = [(part, report.digest, mine) for (part, report), mine in zip(asked, own, strict=True)]
        equal = [part for part, theirs, mine in compared if mine == theirs]
        lacking = [part for part, theirs, mine in compared if has_most(mine.records, theirs.records)]
        for (part, report), mine in zip(asked, own, strict=True):
            if report.keepers:
                self._context.note_gap(part, mine, report)
        self._compared.found_equal(peer, equal, [part for part in sound if part in equal], epoch, now)
        # The other node saw the same digests, but it does not know what it lacks. This node offers by itself.
        if lacking:
            self._compared.found_lacking(peer, lacking, now)
        reports = [word._replace(digest=mine) for word, mine in zip(words, own, strict=True)]
        return bodies.pack_reports(self._context.factor.own, reports)

    # OFFER

    def _offer(self, message: Message, sender: Contact) -> tuple[Steps[object], Callable[..., bytes]]:
        offer = bodies.untrusted_offer(message.body[len(sender.id) :])
        self._context.counters["offers_answered"] += 1
        return self._look_up(offer), partial(self._looked_up, sender, offer)

    def _look_up(self, offer: Offer) -> Steps[tuple[dict[bytes, Offered], list[Offered]]]:
        """The records of this node: those of the offered keys, and all in the span of the offer."""
        store, unix = self._context.store, self._context.unix()
        keys = [each.key for each in offer.offered]
        # One read for all keys, and then a pause: the node has other duties.
        records = store.get_many(keys, unix)
        own = {key: offered(key, record) for key, record in zip(keys, records, strict=True) if record}
        yield len(keys)
        span = []
        if offer.first <= offer.last:
            span = chunk(store, unix, offer.first, offer.last + 1, MAX_SPAN)
            yield len(span)
        return own, [offered(key, record) for key, record in span]

    def _looked_up(
        self,
        sender: Contact,
        offer: Offer,
        own: tuple[dict[bytes, Offered], list[Offered]],
        now: SteadyTime,
    ) -> bytes:
        mine, span = own
        theirs = {each.key: each for each in offer.offered}
        wants = [self._want(each, mine.get(each.key), now) for each in offer.offered]
        lacks = [
            Lack(each.key, each.version)
            for each in span
            if is_newer(each, theirs.get(each.key)) and self._context.keeps(sender.id, each.key)
        ][:MAX_LACKS]
        contact = self._context.contact(sender.id)
        if contact is None:
            lacks = []  # the sender is not in the table, so there is no address to send to
        for lack in lacks:
            assert contact is not None
            # Answer and records leave together, so the other node waits for each record at most once.
            self._pusher.push(contact, lack.key, _leave_to_next_time, now)
        return bodies.pack_wants(wants, lacks)

    def _want(self, other: Offered, own: Offered | None, now: SteadyTime) -> Want:
        latest = self._context.latest()
        # A lie or a fault: the STORE would be refused.
        if not is_possible_version(other.version, latest):
            self._context.counters["versions_ahead"] += 1
            return Want.FOREIGN
        if own is not None and not is_possible_version(own.version, latest):
            own = None  # it gives its place away
        if not is_newer(other, own):
            return Want.HAS
        # Its STORE would be refused. The other node keeps its copy, and asks again in the next round.
        if own is None and self._context.store.room.pressure >= Pressure.MEMBERS:
            return Want.FOREIGN
        view = self._context.view
        # The views differ: the other node must keep its copy for now.
        if view is None or view.kept_range(number(other.key)) is None:
            return Want.FOREIGN
        # Another node sends it already: a record is sent once.
        if self._context.coming.has(other, now):
            return Want.COMING
        # Now, not when it arrives: two neighbours may offer the same record in the same second.
        self._context.coming.note(other, now)
        return Want.WANTED


def is_newer(one: Offered, other: Offered | None) -> bool:
    """Whether `one` may win over `other`. If the versions are equal and the values differ, either may."""
    if other is None or one.version > other.version:
        return True
    return one.version == other.version and one.mark != other.mark


def _leave_to_next_time(good: bool, now: SteadyTime) -> None:
    """The next comparison finds a failed push again."""
