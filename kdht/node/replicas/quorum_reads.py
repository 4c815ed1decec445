"""A read that the own store alone cannot answer: it asks several replicas, and the newest record wins.

There are two kinds:

| kind | ends once | then |
|---|---|---|
| miss: the own store has no record | a replica that has caught up has one | its record is the answer |
| quorum (QUORUM_GET) | a majority of the seats is heard | the newest record is brought to a majority, and is the answer |
| both | all asked nodes have answered or are given up, or 0.5 s are over | the newest record, with `enough` False if too few were heard |

A quorum read writes its record back before it answers, so no later quorum read returns an older one (Attiya, Bar-Noy and
Dolev, "Sharing memory robustly in message-passing systems", 1995). If a majority has something newer by then, the read
begins again, up to three times.

What each answer does:

| answer | what follows |
|---|---|
| OK, NOT_FOUND | the node is heard |
| UNCONFIRMED: it has not caught up | its record counts, but the node is not heard. In place of a replica the next closest is asked |
| none in the usual time, none at all, or a failed disk | the next closest node is asked |
| a record that cannot be read, or lacks its certificate | the same; the record counts for nothing |

Any node may have the newest record. But a node that was away may lack acknowledged writes, and so may a contact beyond
the replicas. So only nodes that have caught up are *heard*. A majority is one of the r closest nodes that do not say
that they are behind: earlier replicas have the seats of joiners.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from kdht.errors import BadPacket, MissingLibrary, StorageError
from kdht.node._timers import Alarm
from kdht.node.replicas._turns import Outcome, Planned, Turn
from kdht.node.replicas.calls import SLOW, AskedReplica, ReplicaAnswer, ReplicaCall, ReplicaQuestion
from kdht.node.replicas.context import CoordinatorContext
from kdht.node.replicas.seats import Seats, Where
from kdht.node.replicas.writes import BEFORE, SPARE, Writes, Written
from kdht.storage import StoredRecord, Write, newer, visible
from kdht.times import SteadyTime
from kdht.wire import Address, Contact, Record, parse_store
from kdht.wire._shared import Op, RecordFlag, Status
from kdht.wire.certified import check_certified, is_certified

# A key that is written all the time would else keep a read busy for ever.
MAX_READ_ROUNDS = 3
"""Of a read that finds something newer while it writes its record back."""
READ_DEADLINE = 0.5
"""Seconds after which a read ends with the records so far."""
FETCHED = frozenset({Status.OK, Status.NOT_FOUND, Status.UNCONFIRMED})
"""Good replies to a FETCH. UNCONFIRMED comes from a node that has not caught up, with its record if it has one."""


class ReadOutcome(NamedTuple):
    """The outcome of a read: the newest record, or tombstone, and whether enough replicas were heard."""

    record: StoredRecord | None
    enough: bool


Done = Callable[[Turn, ReadOutcome], None]


class ReadUnderWay(NamedTuple):
    """A QUORUM_GET that `_common_reads` began at a replica that has caught up. All answers so far were the own record."""

    question: ReplicaQuestion
    own: StoredRecord | None
    need: int
    done: Done | None
    """None: the client was told."""
    seats: int
    rank: int
    """The number of nodes closer than this one."""
    asked: Sequence[AskedReplica]
    deadline: SteadyTime
    place: int
    """The place of the deadline's alarm, as in Timers."""


class ReadJob:
    """One read until it is answered."""

    __slots__ = (
        "alarm", "asked", "candidates", "caught_up", "done", "has", "is_hearsay", "key", "need", "newest", "own_rank",
        "question", "quorum", "replicas", "round", "seats", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        question: ReplicaQuestion,
        own: StoredRecord | None,
        need: int,
        done: Done | None,
        *,
        quorum: bool,
    ) -> None:
        self.question = question
        self.key = question.key
        self.need = need
        self.done = done
        self.quorum = quorum
        self.newest = own
        self.round = 0
        self.is_hearsay = True
        """Whether only nodes that are behind have the newest record; nodes beside the replicas count as such."""
        self.has: dict[Where, StoredRecord | None] = {}
        """The record of each node that has answered."""
        self.replicas: frozenset[Where] = frozenset()
        self.seats = 0
        """The number of replicas."""
        self.asked: list[Address] = []
        """The closest first."""
        self.own_rank: int | None = None
        """The number of nodes closer than this one, if it is a replica."""
        self.caught_up: dict[Where, bool] = {}
        """Whether each node that has answered has caught up."""
        self.waiting = 0
        self.candidates: deque[Contact] = deque()
        self.alarm: Alarm | None = None

    @property
    def enough(self) -> bool:
        """Whether a majority of the seats is heard."""
        # Nobody is behind and nobody was replaced: then the seats are the nodes asked, and need no list.
        if len(self.asked) + (self.own_rank is not None) <= self.seats and all(self.caught_up.values()):
            return len(self.caught_up) >= self.need  # nearly always
        return sum(where in self.caught_up for where in self._seated()[: self.seats]) >= self.need

    @property
    def is_short(self) -> bool:
        """Whether the asked nodes cannot make a majority, whatever they answer."""
        # Then more nodes are asked at once, and not only after a time-out.
        return len(self._seated()) < self.need

    def _seated(self) -> list[Where]:
        """The nodes that have caught up, or may have, the closest first."""
        return [where for where in self.order if self.caught_up.get(where, True)]

    @property
    def order(self) -> list[Where]:
        """The asked nodes, and this one if it is a replica, the closest first."""
        order: list[Where] = list(self.asked)
        if self.own_rank is not None:
            order.insert(self.own_rank, None)
        return order

    def take(self, where: Where, record: StoredRecord | None, *, caught_up: bool) -> None:
        """Take the record of one node. `caught_up`: it is, or was, a replica with all that the others have."""
        self.has[where] = record
        self.caught_up[where] = caught_up
        if record is None:
            return
        # Nodes that are behind may have the newest record too: a write went to them before they caught up.
        if self.newest is None or newer(record, self.newest):
            self.newest, self.is_hearsay = record, not caught_up
        elif caught_up and record == self.newest:
            self.is_hearsay = False


class QuorumReads:
    """All reads under way at one node."""

    def __init__(self, context: CoordinatorContext, writes: Writes) -> None:
        self._context = context
        self._writes = writes

    def gather(
        self,
        turn: Turn,
        key: bytes,
        own: StoredRecord | None,
        need: int,
        done: Done,
        *,
        quorum: bool,
        replica: bool,
        caught_up: bool,
        round: int = 0,
    ) -> None:
        """Ask the other replicas. `own`: the record here. `replica`: this node is one. `caught_up`: it had all that the
        others have when `own` was looked up.

        `need`: replicas that have to be heard. `done` is called once, in this turn or a later one.
        """
        job = ReadJob(self._context.calls.question(Op.FETCH, key, b""), own, need, done, quorum=quorum)
        job.round = round
        self._begin(turn, job, own, replica=replica, caught_up=caught_up)

    def _begin(
        self, turn: Turn, job: ReadJob, own: StoredRecord | None, *, replica: bool, caught_up: bool
    ) -> None:
        """Ask as many nodes as `gather` says."""
        job.seats = self._context.cluster.policy.replicas
        others = job.seats - replica
        # More than the replicas: earlier ones take the seats of joiners, and stand-ins those of silent nodes.
        job.candidates = deque(self._context.core.closest(job.key, others + SPARE + BEFORE) if others else ())
        closest = [each.address for each in islice(job.candidates, others)]
        job.replicas = frozenset([None, *closest] if replica else closest)
        if replica:
            # The own place among the seats: without it a node that is third would count as first.
            job.own_rank = self._context.core.rank(job.key, job.seats)
            job.take(None, own, caught_up=caught_up)
        self._context.counters["gathered_quorum" if job.quorum else "gathered_miss"] += 1
        # Before the questions: each of them may fail at once.
        job.alarm = turn.after(READ_DEADLINE, partial(self._too_late, job))
        # A new replica does not count, so one more node is asked in its place.
        for _ in range(others + (replica and not caught_up)):
            self._fetch_next(turn, job)
        self.finish_if_decided(turn, job)

    def go_on(self, turn: Turn, found: ReadUnderWay) -> ReadJob:
        """Take over a read."""
        job = ReadJob(found.question, found.own, found.need, found.done, quorum=True)
        job.seats, job.own_rank = found.seats, found.rank
        job.asked = [each.address for each in found.asked]
        job.replicas = frozenset([None, *job.asked])
        near = self._context.core.closest(job.key, found.seats - 1 + SPARE + BEFORE)
        job.candidates = deque(contact for contact in near if contact.address not in job.replicas)
        job.take(None, found.own, caught_up=True)
        if job.done is not None:
            job.alarm = turn.at(found.deadline, partial(self._too_late, job), found.place)
        for each in found.asked:
            if each.answered:
                job.take(each.address, found.own, caught_up=True)
            else:
                self._context.calls.go_on(turn, found.question, each, partial(self._answered, job))
                job.waiting += 1
        return job

    def _fetch_next(self, turn: Turn, job: ReadJob) -> None:
        while job.candidates:
            contact = job.candidates.popleft()
            job.asked.append(contact.address)
            if self._context.calls.ask(turn, job.question, contact.address, partial(self._answered, job)):
                job.waiting += 1
                return

    def _answered(self, job: ReadJob, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
        if what is SLOW:
            if job.done is not None:
                self._fetch_next(turn, job)
            return
        job.waiting -= 1
        if isinstance(what, ReplicaAnswer) and what.status in FETCHED:
            self._take(turn, job, call.address, what)
        elif job.done is not None:
            self._fetch_next(turn, job)
        self.finish_if_decided(turn, job)

    def _take(self, turn: Turn, job: ReadJob, address: Address, answer: ReplicaAnswer) -> None:
        try:
            record = untrusted_fetched(job.key, answer)
        except (BadPacket, MissingLibrary) as why:
            name = "calls_unreadable" if type(why) is BadPacket else "calls_uncertified"
            self._context.counters[name] += 1
            if job.done is not None:
                self._fetch_next(turn, job)
            return
        if record is not None:
            # So versions made here are above it.
            self._context.clock.seen(record.version, turn.now)
        caught_up = answer.status is not Status.UNCONFIRMED
        job.take(address, record, caught_up=caught_up)
        if not caught_up and job.done is not None and (address in job.replicas or job.is_short):
            # An earlier replica, or a stand-in, may have what this one lacks.
            self._fetch_next(turn, job)

    def finish_if_decided(self, turn: Turn, job: ReadJob) -> None:
        """End the read once its outcome is known: the first table above."""
        if job.done is None:
            return
        # For a GET one record of a node that has caught up is enough.
        # A tombstone or an expired record is no answer yet: another replica may have a newer record.
        if not job.quorum and visible(job.newest, turn.now) and not job.is_hearsay:
            self._finish(turn, job, enough=True)
        elif not job.waiting or (job.quorum and job.enough):
            # Even a record that only nodes behind have: there is none better.
            self._finish(turn, job, enough=job.enough)

    def _too_late(self, job: ReadJob, turn: Turn) -> None:
        job.alarm = None
        if job.done is not None:
            self._finish(turn, job, enough=job.enough)

    def _finish(self, turn: Turn, job: ReadJob, *, enough: bool) -> None:
        done, job.done = job.done, None
        assert done is not None
        if job.alarm is not None:
            job.alarm[2] = None
        record = job.newest
        # None in `has`: this node is a replica. A read repairs its own store too.
        # Written here for nothing but the next read, so nobody waits for it.
        here = record is not None and None in job.has and job.has[None] != record
        self._context.counters["read_repairs"] += here
        if job.quorum and enough and record is not None:
            self._spread(turn, job, record, done, here=here)
            return
        if here and record is not None:
            turn.writes.append(Planned(Write(job.key, record), _is_enough))
        done(turn, ReadOutcome(record, enough))

    def _spread(self, turn: Turn, job: ReadJob, record: StoredRecord, done: Done, *, here: bool) -> None:
        """Write the newest record back to a majority, unless a majority has it."""
        seats = Seats(job.order, job.seats)
        having = {where for where, has in job.has.items() if has == record}
        for where in having:
            # Its copy counts among the copies, but another node has its seat.
            if not job.caught_up[where]:
                seats.leave(where)
        having -= seats.left
        if len(having & seats.taken) >= job.need:
            if here:
                turn.writes.append(Planned(Write(job.key, record), _is_enough))
            done(turn, ReadOutcome(record, enough=True))
            return
        # Replicas get the record although they have no seat: they keep the key from now on.
        near = job.replicas | seats.taken
        lacking = [
            where
            for where in job.order
            if where is not None and where in near and job.has.get(where) != record
        ]
        told = partial(self._was_spread, job, record, done)
        self._writes.spread(turn, job.key, record, seats, having, lacking, job.need, told, here=here)

    def _was_spread(
        self, job: ReadJob, record: StoredRecord, done: Done, turn: Turn, written: Written
    ) -> None:
        """The record was written back, or a majority has something newer: then read again."""
        # CONFLICT: a majority has something newer, perhaps by a condition on this very record.
        # After three rounds the record is what a majority had a moment ago, but it cannot be confirmed.
        if written.status is not Status.CONFLICT or job.round + 1 >= MAX_READ_ROUNDS:
            done(turn, ReadOutcome(record, written.status is Status.OK))
            return
        is_replica = None in job.replicas
        try:
            own = self._context.store.get(job.key, turn.now) if is_replica else None
        except StorageError:
            done(turn, ReadOutcome(record, enough=False))
            return
        self.gather(
            turn,
            job.key,
            own,
            job.need,
            done,
            quorum=True,
            replica=is_replica,
            caught_up=job.caught_up.get(None, False),
            round=job.round + 1,
        )


def _is_enough(turn: Turn, outcome: Outcome) -> None:
    """A failed repair is repeated by the next read or by anti-entropy."""


def untrusted_fetched(key: bytes, answer: ReplicaAnswer) -> StoredRecord | None:
    """The record of `key` in a reply to a FETCH with a status of FETCHED. Raises BadPacket, MissingLibrary."""
    if answer.status is Status.OK or (answer.status is Status.UNCONFIRMED and answer.body):
        return untrusted_stored(key, answer.body)
    return None


def untrusted_store(key: bytes, body: bytes) -> Write:
    """The write that a STORE of `key` asks for. Raises BadPacket, MissingLibrary."""
    record, nonce = parse_store(body)
    # No other kind of record may be soft.
    soft = nonce is None and record.flags == RecordFlag.SOFT
    return Write(key, _stored(key, record._replace(flags=0) if soft else record), nonce, soft)


def untrusted_stored(key: bytes, body: bytes) -> StoredRecord:
    """The record in the reply to a FETCH of `key`. Raises BadPacket, MissingLibrary."""
    return _stored(key, Record.parse(body))


def _stored(key: bytes, record: Record) -> StoredRecord:
    version, expiry, flags, value = record
    if not version:
        raise BadPacket("BAD_LENGTH", "a record between nodes without a version")
    if is_certified(version, flags):
        check_certified(key, version, flags, value)
    elif flags not in (0, RecordFlag.TOMBSTONE):
        raise BadPacket("BAD_FLAGS", f"a record between nodes with the flags {flags:#x}")
    elif flags and value:
        raise BadPacket("BAD_LENGTH", "a tombstone with a value")
    return StoredRecord(version, expiry, flags, value)
