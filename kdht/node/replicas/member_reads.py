"""A MEMBERS that the own store alone cannot answer: what a majority of the replicas has, joined member by member.

It asks as a quorum read does (`quorum_reads`), with LIST in place of FETCH. Each replica tells its members from one place
on, as many as fit, and its tombstones. So their union is known up to the nearest end of those pages. The newer of two
copies counts; a tombstone that is newer hides the member.

A page that is byte for byte the own one, as nearly always, is neither read nor joined.

Nothing is written back to a majority before the answer: an announcement that was acknowledged is at one already, and of
one that was not, two readers may differ. The own store takes what it lacks.
"""

from collections.abc import Callable
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.node.replicas._turns import Outcome, Planned, Turn
from kdht.node.replicas.calls import ReplicaAnswer, ReplicaQuestion
from kdht.node.replicas.quorum_reads import QuorumReads, ReadJob
from kdht.node.sets.index import Listing
from kdht.storage import StoredRecord, Write, newer
from kdht.storage.record import TOMBSTONE
from kdht.storage.versions import is_possible_version, latest_version
from kdht.times import UnixTime
from kdht.wire import Address
from kdht.wire._shared import Op, Status
from kdht.wire.sets import END, SHARED_LEN, Listed, ListPage, id_of, member_value, pack_listing, parse_list


class MembersOutcome(NamedTuple):
    """The members and tombstones, and whether enough replicas were heard."""

    page: ListPage
    enough: bool


MembersDone = Callable[[Turn, MembersOutcome], None]


class MembersJob(ReadJob):
    """One such read, from the place `start` on."""

    __slots__ = ("own", "pages", "start", "told")

    def __init__(
        self, question: ReplicaQuestion, start: int, own: Listing, need: int, told: MembersDone
    ) -> None:
        super().__init__(question, None, need, _nothing, quorum=True)
        self.start = start
        self.own = own
        self.pages = [own.page]
        """What this node and each heard one has."""
        self.told = told


class MemberReads(QuorumReads):
    """All of them at one node."""

    def gather_members(
        self,
        turn: Turn,
        set_key: bytes,
        start: int,
        own: Listing,
        need: int,
        done: MembersDone,
        *,
        replica: bool,
        caught_up: bool,
    ) -> None:
        """As `gather`, from the place `start` on. `own`: what this node has."""
        question = self._context.calls.question(Op.LIST, set_key, pack_listing(start))
        job = MembersJob(question, start, own, need, done)
        self._begin(turn, job, None, replica=replica, caught_up=caught_up)

    def _take(self, turn: Turn, job: ReadJob, address: Address, answer: ReplicaAnswer) -> None:
        assert isinstance(job, MembersJob)
        try:
            page = self._untrusted_page(job, answer.body, turn.now)
        except BadPacket:
            self._context.counters["calls_unreadable"] += 1
            if job.done is not None:
                self._fetch_next(turn, job)
            return
        job.pages.append(page)
        newest = (
            job.own.newest if page is job.own.page else max((each.version for each in page.listed), default=0)
        )
        self._context.clock.seen(newest, turn.now)
        caught_up = answer.status is not Status.UNCONFIRMED
        job.take(address, None, caught_up=caught_up)
        if not caught_up and job.done is not None and (address in job.replicas or job.is_short):
            self._fetch_next(turn, job)

    def _untrusted_page(self, job: MembersJob, body: bytes, now: UnixTime) -> ListPage:
        """Raises BadPacket."""
        latest, start = latest_version(now, self._context.cluster.policy.window), job.start
        if body == job.own.packed and is_possible_version(job.own.newest, latest):
            return job.own.page
        page = parse_list(body)
        for place, version, expiry, flags, payload in page.listed:
            if not (version and expiry and is_possible_version(version, latest)):
                raise BadPacket("BAD_VERSION", f"a member with version {version} and expiry {expiry}")
            if flags not in (0, TOMBSTONE) or (flags and payload):
                raise BadPacket("BAD_FLAGS", f"a member with the flags {flags:#x}")
            if id_of(place) < start:
                raise BadPacket("BAD_LENGTH", "a member before the place that was asked for")
        if page.next != END and page.next < start:
            raise BadPacket("BAD_LENGTH", "members that end before they begin")
        return page

    def _finish(self, turn: Turn, job: ReadJob, *, enough: bool) -> None:
        assert isinstance(job, MembersJob)
        job.done = None
        if job.alarm is not None:
            job.alarm[2] = None
        own = job.own.page
        if job.own.first_end > turn.now and all(each is own for each in job.pages):
            page = own
        else:
            page = joined(job.pages, turn.now)
            if None in job.has:  # this node is a replica
                self._mend(turn, job.key, own, page)
        job.told(turn, MembersOutcome(page, enough))

    def _mend(self, turn: Turn, set_key: bytes, own: ListPage, page: ListPage) -> None:
        """Write to the own store what it lacks."""
        has = {each.place: each for each in own.listed}
        for each in page.listed:
            if has.get(each.place) != each:
                key, record = set_key[:SHARED_LEN] + each.place, _stored(set_key, each)
                turn.writes.append(Planned(Write(key, record), _is_enough))
                self._context.counters["read_repairs"] += 1


def joined(pages: list[ListPage], now: UnixTime) -> ListPage:
    """The union of what several nodes told, up to the nearest end of their pages."""
    following = min((page.next for page in pages if page.next != END), default=END)
    newest: dict[bytes, Listed] = {}
    for page in pages:
        for each in page.listed:
            known = newest.get(each.place)
            if each.expiry > now and (known is None or newer(_bare(each), _bare(known))):
                newest[each.place] = each
    listed = [newest[place] for place in sorted(newest) if following == END or id_of(place) < following]
    return ListPage(max(page.total for page in pages), following, listed)


def _bare(each: Listed) -> StoredRecord:
    """To be compared: members of one place are of one set, so the rest of their values is equal."""
    return StoredRecord(each.version, each.expiry, each.flags, each.payload)


def _stored(set_key: bytes, each: Listed) -> StoredRecord:
    value = b"" if each.flags & TOMBSTONE else member_value(set_key, each.payload)
    return StoredRecord(each.version, each.expiry, each.flags, value)


def _nothing(turn: Turn, outcome: object) -> None:
    """In place of a record's `done`: `told` is called instead."""


def _is_enough(turn: Turn, outcome: Outcome) -> None:
    """A failed repair is repeated by the next read or by anti-entropy."""
