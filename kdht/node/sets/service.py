"""ANNOUNCE, WITHDRAW, MEMBERS, and WATCHes of sets, of clients that ended at this node.

Contract: as Service, which has checked what their senders may do. An announcement becomes a write of the member's record
by the coordinator; nothing here replicates anything.

A member is named by its announcer, and its place follows from that name and the holder of the token that was checked. So
nobody can withdraw another holder's members: no request names them.
"""

import math
from functools import partial
from typing import NamedTuple

from kdht.datapath.base import Datagram
from kdht.errors import BadPacket, StorageError
from kdht.node.access import Access, body_of
from kdht.node.late_answers import LateAnswers
from kdht.node.replicas import Coordinator
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.coordinator import KeptRecords
from kdht.node.replicas.leases import Leases
from kdht.node.replicas.member_reads import MembersOutcome
from kdht.node.replicas.writes import Done, Written
from kdht.node.replies import Replies, ReplyBatch
from kdht.node.sets.index import Listing, Part, SetIndex, as_seen, page_of_members
from kdht.node.sets.news import watched_at
from kdht.storage import StoredRecord
from kdht.storage._members_cache import MembersCache
from kdht.storage.record import TOMBSTONE
from kdht.storage.room import Room
from kdht.times import UnixTime
from kdht.wire import FIELD, OFFSET, Record
from kdht.wire._shared import MAX_BODY, RECORD_LEN, Op, Reason, Status
from kdht.wire.sets import (
    ENTRY_LEN,
    LEAST_REPLY,
    LISTED_LEN,
    MAX_MEMBER_TTL,
    NOBODYS,
    QUORUM,
    RENEWAL,
    SOFT,
    TOLD_LEN,
    ListPage,
    MembersPage,
    ToldMembers,
    member_key,
    member_value,
    pack_members,
    pack_told,
    parse_announcement,
    parse_lease,
    parse_question,
)

MAX_REPLIES = 16
"""Kept for one listing."""
_OP = OFFSET["op"]
_KEY = FIELD["key"]
_REQUEST_ID = FIELD["request_id"]


class SetService:
    """One node's."""

    def __init__(
        self,
        *,
        index: SetIndex,
        coordinator: Coordinator,
        repair: KeptRecords,
        replies: Replies,
        access: Access,
        room: Room,
        leases: Leases,
        late: LateAnswers,
        kept: MembersCache | None,
    ) -> None:
        """`kept` gets finished replies; None: there is no cache."""
        self._kept = kept
        self._index = index
        self._coordinator = coordinator
        self._repair = repair
        self._replies = replies
        self._replier = replies.replier
        self._access = access
        self._room = room
        self._leases = leases
        self._late = late

    # --- ANNOUNCE and WITHDRAW

    def begin(self, turn: Turn, request: Datagram) -> Status | None:
        """Begin the write that a request asks for; or the status that refuses it."""
        data = request.data
        set_key = data[_KEY]
        if request.reason is not Reason.OWNER and not self._coordinator.responsible(set_key):
            return Status.NOT_RESPONSIBLE
        try:
            body, seq = body_of(data)
            asked, name = parse_announcement(body)
        except BadPacket:
            return Status.BAD_REQUEST
        # As a PUT's: a copy of this datagram is the same write.
        if seq is not None and asked.version not in (0, seq):
            return Status.BAD_REQUEST
        if request.max_reply < RECORD_LEN:
            return self._replier.refusal(request, RECORD_LEN, int(turn.now))
        asked = asked._replace(version=asked.version if seq is None else seq)
        holder = self._access.writer_of(data)
        key = member_key(set_key, holder[-len(NOBODYS) :] if holder else NOBODYS, name)
        who = holder or self._replier.address_of(request)
        if data[_OP] == Op.WITHDRAW:
            return self._withdraw(turn, request, key, asked, who)
        return self._announce(turn, request, key, asked, who)

    def _announce(
        self, turn: Turn, request: Datagram, key: bytes, asked: Record, who: bytes
    ) -> Status | None:
        set_key = request.data[_KEY]
        if not asked.ttl:
            return Status.BAD_REQUEST
        value = member_value(set_key, asked.value)
        soft = bool(asked.flags & SOFT)
        try:
            if asked.flags & RENEWAL:
                spared = self._spared(turn, set_key, key, value, asked.ttl, hard=not soft)
                if spared is not None:
                    self._coordinator.counters["renewals_spared"] += 1
                    left = max(spared.expiry - math.ceil(turn.now), 1)
                    stands = Written(Status.OK, spared.version, existed=True)
                    self._late.stored(request, turn.now, left, who, len(value), turn, stands)
                    return None
            has_room = self._index.has_room(set_key, key, turn.now)
        except StorageError:
            return self._refuse(turn, request, key, asked.version, Status.STORAGE_FAILED)
        if not has_room or not self._room.lets_in(who, len(value), asked.ttl, turn.now):
            return self._refuse(turn, request, key, asked.version, Status.FULL)
        record = StoredRecord(asked.version, math.ceil(turn.now) + asked.ttl, 0, value)
        answer = partial(self._late.stored, request, turn.now, asked.ttl, who, len(value))
        done = partial(self._announced, key, answer, not soft)
        self._coordinator.put(turn, key, record, done, nonce=_request_id(request.data), soft=soft)
        return None

    def _refuse(self, turn: Turn, request: Datagram, key: bytes, version: int, status: Status) -> Status:
        return self._coordinator.refuse(key, version, _request_id(request.data), status, turn.now)

    def _announced(self, key: bytes, answer: Done, hard: bool, turn: Turn, written: Written) -> None:
        if written.status is Status.OK:
            self._index.confirm(key, written.version, hard=hard)
        answer(turn, written)

    def _spared(
        self, turn: Turn, set_key: bytes, key: bytes, value: bytes, ttl: int, *, hard: bool
    ) -> StoredRecord | None:
        """The record that a renewal may leave as it is. Raises StorageError."""
        cluster = self._coordinator.cluster
        # A node that may have missed a withdrawal, or that could not confirm a write, spares none.
        if not cluster.joined or cluster.barred or not self._repair.is_caught_up(set_key):
            return None
        return self._index.spared(set_key, key, value, ttl, turn.now, hard=hard)

    def _withdraw(
        self, turn: Turn, request: Datagram, key: bytes, asked: Record, who: bytes
    ) -> Status | None:
        # A withdrawal is never soft: after a power failure an older announcement would be a member again.
        if asked.value or asked.flags:
            return Status.BAD_REQUEST
        # No older copy outlives the longest of its announcements, so the tombstone need not either.
        expiry = math.ceil(turn.now) + 1 + (asked.ttl or MAX_MEMBER_TTL)
        tombstone = StoredRecord(asked.version, expiry, TOMBSTONE, b"")
        done = partial(self._late.removed, request, turn.now, who)
        self._coordinator.put(turn, key, tombstone, done, nonce=_request_id(request.data))
        return None

    # --- MEMBERS, and WATCH of a set

    @staticmethod
    def is_watch(request: Datagram) -> bool:
        """Whether this WATCH is one of a set. One that cannot be read is not."""
        try:
            return parse_lease(body_of(request.data)[0]) is not None
        except BadPacket:
            return False

    def read(self, request: Datagram, answers: ReplyBatch) -> bool:
        """Answer a MEMBERS or a WATCH at once; or ask the other replicas, and give back False."""
        data, now = request.data, answers.now
        set_key = data[_KEY]
        begun = self._kept.begin(set_key) if self._kept else 0
        caught_up = self._repair.is_caught_up(set_key)  # before the look: what comes in between does no harm
        asked = self._asked(request, now)
        if isinstance(asked, Status):
            answers.add(request, asked)
            return True
        alone = caught_up and not asked.strict
        try:
            head = ENTRY_LEN if alone else LISTED_LEN
            part = self._index.part(set_key, asked.cursor, head, asked.room, now, _request_id(data))
            if alone:
                living = self._index.living(set_key, part.start, asked.room, now)
                # None at all: the others are asked, as for a record that is not here.
                if living.total:
                    page = self._answer(request, answers, asked, part, living)
                    self._keep(set_key, begun, asked, part, page)
                    return True
            own = self._index.listing(set_key, part.start, now)
        except StorageError:
            answers.add(request, Status.STORAGE_FAILED)
            return True
        done = partial(self._found, request, now, asked, part, own)
        with self._coordinator.turn(now) as turn:
            self._coordinator.read_members(turn, set_key, part.start, own, done, caught_up=caught_up)
        return False

    def _asked(self, request: Datagram, now: UnixTime) -> "_Asked | Status":
        """What a MEMBERS or WATCH asks for, once its lease is taken; or the status that refuses it."""
        data = request.data
        if request.reason is not Reason.OWNER and not self._coordinator.responsible(data[_KEY]):
            return Status.NOT_RESPONSIBLE
        if request.max_reply < LEAST_REPLY:
            return self._replier.refusal(request, LEAST_REPLY, int(now))
        room = min(request.max_reply, MAX_BODY)
        try:
            body, _ = body_of(data)
            if data[_OP] != Op.WATCH:
                cursor, flags = parse_question(body)
                return _Asked(cursor, bool(flags & QUORUM), room, watches=False)
            lease = parse_lease(body)
        except BadPacket:
            return Status.BAD_REQUEST
        if lease is None:
            return Status.BAD_REQUEST
        seconds, cursor = lease
        if end := self._access.may_watch_until(data):
            seconds = min(seconds, max(end - int(now), 0))
        # Before the look: a change in between is told twice rather than never.
        who = self._replier.client_of(request)
        if not self._leases.renew(watched_at(data[_KEY]), who, request, seconds):
            return Status.BUSY
        return _Asked(cursor, False, room - TOLD_LEN, watches=True)

    def _found(
        self,
        request: Datagram,
        arrived: UnixTime,
        asked: "_Asked",
        part: Part,
        own: Listing,
        turn: Turn,
        found: MembersOutcome,
    ) -> None:
        answers = self._replies.batch(turn.now)
        made_of = part, asked.room, math.ceil(turn.now)
        # The majority has what this node has, and a reply was made of that in this second.
        if found.enough and found.page is own.page and not asked.watches and made_of in own.replies:
            answers.add(request, Status.OK, own.replies[made_of])
            self._late.send(turn, request, arrived, answers)
            return
        living = [each for each in found.page.listed if not each.flags & TOMBSTONE]
        coordinator = self._coordinator
        strict = asked.strict
        if not found.enough and (strict or not living or coordinator.cluster.barred):
            lacks = strict and coordinator.cluster.joined and coordinator.lacks(coordinator.need_to_read)
            answers.add(request, Status.TOO_FEW if lacks else Status.UNCONFIRMED)
        else:
            page = self._answer(request, answers, asked, part, found.page._replace(listed=living))
            if found.enough and found.page is own.page and not asked.watches:
                if len(own.replies) >= MAX_REPLIES:
                    own.replies.clear()  # of seconds that are over
                own.replies[made_of] = pack_members(as_seen(page, turn.now))
        self._late.send(turn, request, arrived, answers)

    @staticmethod
    def _answer(
        request: Datagram, answers: ReplyBatch, asked: "_Asked", part: Part, listed: ListPage
    ) -> MembersPage:
        """Gives the page with expiries."""
        page = page_of_members(listed, part, asked.room)
        seen = as_seen(page, answers.now)
        told = pack_told(ToldMembers(part.start, 0, seen)) if asked.watches else pack_members(seen)
        answers.add(request, Status.OK, told)
        return page

    def _keep(self, set_key: bytes, begun: int, asked: "_Asked", part: Part, page: MembersPage) -> None:
        """Have the socket's loop answer the next such questions."""
        # One for less room has fewer members than the others want.
        if self._kept and asked.room == MAX_BODY and not asked.watches:
            until = self._index.next_end(set_key)
            self._kept.keep(set_key, begun, asked.cursor, part.number, part.parts, until, pack_members(page))


class _Asked(NamedTuple):
    """What a reader of a set asks for."""

    cursor: int
    strict: bool
    """From a majority."""
    room: int
    """Bytes for the page."""
    watches: bool


def _request_id(data: bytes) -> int:
    return int.from_bytes(data[_REQUEST_ID], "big")
