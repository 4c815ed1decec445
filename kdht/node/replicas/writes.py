"""One write to all replicas of its key.

The coordinator writes to its own store and sends STORE to the other replicas, all at
once; the writer is told once enough nodes have it on stable storage, and among them a majority of the replicas that have caught
up: a quorum read, which hears a majority, then meets one that has it. Where a replica is silent the next closest contact is asked
beside it. That one adds a copy, but it takes the replica's seat (`Seats`) only where the replica's port is closed: a silent one may
live, and be heard by others. A replica that has not caught up says so with its confirmation, and the next closest is asked in its place.
A replica refuses where something newer stands (CONFLICT) or a greater version is promised (BAD_VERSION). Then only replicas count.

The version is the client's, and the same in every try. A write without one is given one here, and a new one only where all
that were asked refused the first: else it might be told of twice. A conditional
write is decided by promises first (`conditions`).
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from kdht.errors import StorageError
from kdht.node.replicas.calls import CLOSED, SLOW, Answer, Call, Question
from kdht.node.replicas.context import CoordinatorContext, Quorum
from kdht.node.replicas.seats import Seats, Where
from kdht.node.replicas.turns import Outcome, Planned, Turn
from kdht.node.timers import Alarm
from kdht.storage import Result, StoredRecord, Write
from kdht.wire import RECORD, Address, Contact, Record, pack_decided
from kdht.wire._shared import RECORD_LEN, Op, RecordFlag, Status

DEADLINE = 1.5
"""Seconds after which a write that too few confirmed is UNCONFIRMED."""
MAX_ROUNDS = 4
# As a plain number: an enum's operators cost more than the rest.
_TOMBSTONE, _BEHIND = int(RecordFlag.TOMBSTONE), int(RecordFlag.BEHIND)
SPARE = 6
"""Contacts beyond the replicas that may take the place of silent ones."""
BEFORE = 32
"""Contacts beyond those that may have kept a key before, should so many have come at once."""


class Written(NamedTuple):
    """What became of a write; `version` of a refusal is what stands, what is promised, or the time."""

    status: Status
    version: int
    existed: bool


Done = Callable[[Turn, Written], None]


class WriteJob:
    """One write until it is answered; late confirmations change nothing any more."""

    __slots__ = (
        "acks", "alarm", "asked", "disputed", "done", "existed", "has", "is_new", "key", "local", "near", "newer",
        "own_version", "question", "quorum", "record", "repeated", "round", "seats", "stands", "taken", "unsure",
        "waiting",
    )  # fmt: skip

    def __init__(self, key: bytes, record: StoredRecord, quorum: Quorum, done: Done, *, is_new: bool) -> None:
        self.key = key
        self.record = record
        self.quorum = quorum
        self.done: Done | None = done
        self.is_new = is_new
        """A client's write; else a record that stands somewhere is brought to others."""
        self.own_version = record.version != 0
        """Whether its client gave it a version."""
        self.round = 0
        self.stands = 0
        """The greatest version that a replica refused it for."""
        self.existed = False
        self.alarm: Alarm | None = None

    def start(self) -> None:
        """A new round."""
        self.acks = 0
        """Nodes that have it."""
        self.has: set[Where] = set()
        """Those of them that have caught up."""
        self.newer: set[Where] = set()
        """Nodes that have caught up, and have something newer."""
        self.disputed = False
        """Whether any node did not take it."""
        self.repeated = False
        """Whether one that was asked several times did not: it may have taken it before."""
        self.unsure = False
        """Whether one that was asked did not say whether it took it."""
        self.waiting = 0
        """Nodes that may still confirm."""
        self.question: Question | None = None
        """What the other replicas are asked in this round."""
        self.asked: set[Where] = {None}
        self.near: Sequence[Contact] = ()
        """Whom to ask, the closest first, and how many of them were looked at."""
        self.taken = 0
        self.seats: Seats | None = None
        """None while nobody but the replicas was asked, and all of them keep their seats: nearly always."""
        self.local: Status | None = None
        """What the own store said; None until then."""

    @property
    def is_confirmed(self) -> bool:
        quorum, held = self.quorum, self.seated(self.has)
        if not self.is_new:
            return held >= quorum.majority
        if not self.disputed:
            return self.acks >= quorum.acks and held >= min(quorum.majority, quorum.acks)
        return held >= quorum.majority and held + self.seated(self.newer) >= quorum.acks

    @property
    def is_refused(self) -> bool:
        """Whether nobody has it, and nobody ever had it.

        A replica that has something newer may have had this before, if anybody has or had it: a quorum read brings what one
        node has to others. Then it may have been told of.
        """
        return self.is_new and not (self.acks or self.repeated or self.unsure or self.waiting)

    @property
    def is_overtaken(self) -> bool:
        """Whether a majority has what a read brings, or something newer."""
        if self.is_new or not self.newer:
            return False
        return self.seated(self.has) + self.seated(self.newer) >= self.quorum.majority

    def seated(self, nodes: set[Where]) -> int:
        """How many of these have a seat."""
        return len(nodes) if self.seats is None else len(nodes & self.seats.taken)


class Writes:
    """All writes under way at one coordinator."""

    def __init__(self, context: CoordinatorContext) -> None:
        self._context = context

    def write(self, turn: Turn, key: bytes, record: StoredRecord, quorum: Quorum, done: Done) -> None:
        """Replicate a record; one with version 0 is given a version."""
        self._context.counters["writes"] += 1
        job = WriteJob(key, record, quorum, done, is_new=True)
        job.alarm = turn.after(DEADLINE, partial(self._too_late, job))
        self._begin(turn, job)

    def spread(
        self,
        turn: Turn,
        key: bytes,
        record: StoredRecord,
        seats: Seats,
        has: set[Where],
        lacking: Collection[Address],
        need: int,
        done: Done,
        *,
        here: bool,
    ) -> None:
        """Bring a record that has its version to `lacking` nodes, and to the own store too (`here`), until `need` in the seats
        have it. Those that have caught up and have it are in `has`; those that only have it have left their seats.

        CONFLICT where so many have it or something newer.
        """
        job = WriteJob(key, record, Quorum(need, need, need), done, is_new=False)
        job.start()
        job.seats, job.has = seats, has
        job.asked |= has | seats.left
        job.alarm = turn.after(DEADLINE, partial(self._too_late, job))
        if here:
            turn.writes.append(Planned(Write(key, record), partial(self._written, job, job.round)))
        else:
            job.local = Status.OK
        for address in lacking:
            self._store(turn, job, address)
        self.finish_if_decided(turn, job)

    def _begin(self, turn: Turn, job: WriteJob) -> None:
        context = self._context
        job.start()
        if not job.own_version:
            job.record = job.record._replace(version=context.clock.next(turn.now))
        turn.writes.append(Planned(Write(job.key, job.record), partial(self._written, job, job.round)))
        others = context.cluster.policy.replicas - 1
        job.near = context.core.closest(job.key, others + SPARE) if others else ()
        for _ in range(others):
            self._store_next(turn, job)

    def _store_next(self, turn: Turn, job: WriteJob) -> None:
        replicas = self._context.cluster.policy.replicas
        while job.taken < len(job.near):
            address = job.near[job.taken].address
            job.taken += 1
            if job.taken >= replicas:
                self._seats(job)
            if address not in job.asked and self._store(turn, job, address):
                return

    def _seats(self, job: WriteJob) -> Seats:
        """They are counted from now on. This node is among the replicas; which of them does not matter."""
        if job.seats is None:
            order = [None, *(contact.address for contact in job.near)]
            job.seats = Seats(order, self._context.cluster.policy.replicas)
        return job.seats

    def _store(self, turn: Turn, job: WriteJob, address: Address) -> bool:
        job.asked.add(address)
        calls = self._context.calls
        if job.question is None:
            job.question = calls.question(Op.STORE, job.key, pack_stored(job.record))
        sent = calls.ask(turn, job.question, address, partial(self._answered, job, job.round))
        job.waiting += sent
        return sent

    def _written(self, job: WriteJob, round: int, turn: Turn, outcome: Outcome) -> None:
        """The own store's word."""
        if job.round != round:
            return
        if not isinstance(outcome, Result):
            job.local = Status.STORAGE_FAILED if isinstance(outcome, StorageError) else Status.BUSY
            job.unsure = True
            if job.question is None:
                self._finish(turn, job, job.local)
                return
        else:
            job.local = Status.OK
            if round == 0:
                job.existed = outcome.existed
                if job.own_version and job.record.deleted:
                    job.existed = self._context.recent.deletion(
                        job.key, job.record.version, turn.now, existed=outcome.existed
                    )
            behind = not self._context.holds(job.key)
            if outcome.accepted:
                self._has(turn, job, None, behind=behind)
            else:
                stands = outcome.promised or outcome.version
                self._refused(turn, job, None, stands, newer=not outcome.promised, behind=behind)
        self.finish_if_decided(turn, job)

    def _answered(self, job: WriteJob, round: int, turn: Turn, call: Call, what: Answer | str) -> None:
        """A replica's word, or its silence."""
        if job.round != round:
            return
        if what is SLOW:
            if job.done is not None:
                self._store_next(turn, job)
            return
        job.waiting -= 1
        where = call.address
        if isinstance(what, Answer) and what.status is Status.OK:
            self._has(turn, job, where, behind=is_behind(what.body))
        elif isinstance(what, Answer) and what.status in (Status.CONFLICT, Status.BAD_VERSION):
            newer = what.status is Status.CONFLICT
            job.repeated |= call.tries > 1
            self._refused(turn, job, where, version_in(what.body), newer=newer, behind=is_behind(what.body))
            if not newer:
                self._context.on_missed(job.key)
        else:
            job.unsure = True
            self._context.on_missed(job.key)
            if what is CLOSED:
                self._seats(job).leave(where)
            if job.done is not None:
                self._store_next(turn, job)
        self.finish_if_decided(turn, job)

    def _has(self, turn: Turn, job: WriteJob, where: Where, *, behind: bool) -> None:
        """A node has it."""
        job.acks += 1
        if behind:
            self._context.counters["confirmed_behind"] += 1
            self._leave_seat(turn, job, where)
        else:
            job.has.add(where)

    def _refused(
        self, turn: Turn, job: WriteJob, where: Where, version: int, *, newer: bool, behind: bool
    ) -> None:
        """A node does not take it, for that version's sake."""
        self._context.clock.seen(version)
        job.stands = max(job.stands, version)
        job.disputed = True
        if newer and behind:
            self._leave_seat(turn, job, where)
        elif newer:
            job.newer.add(where)

    def _leave_seat(self, turn: Turn, job: WriteJob, where: Where) -> None:
        """A node that has not caught up makes no majority, though it has the record: who kept the key before may."""
        seats = self._seats(job)
        seats.leave(where)
        is_short = len(seats.taken & job.asked) < job.quorum.majority
        if job.done is None or not (where in seats.first or is_short):
            return
        if job.taken >= len(job.near):
            self._look_farther(job, seats)
        self._store_next(turn, job)

    def _look_farther(self, job: WriteJob, seats: Seats) -> None:
        """Who may have kept the key before so many others came."""
        job.near = self._context.core.closest(job.key, self._context.cluster.policy.replicas + SPARE + BEFORE)
        job.taken = 0
        own: list[Where] = [None] if None in seats.order else []
        seats.extend([*own, *(contact.address for contact in job.near)])

    def _again(self, turn: Turn, job: WriteJob) -> None:
        """No majority can have this version: the same write once more, above what stands."""
        job.round += 1
        self._context.counters["write_rounds"] += 1
        if job.round >= MAX_ROUNDS:
            self._finish(turn, job, Status.UNCONFIRMED)
        else:
            self._begin(turn, job)

    def finish_if_decided(self, turn: Turn, job: WriteJob) -> None:
        """Answer if enough have confirmed, or if no more can."""
        if job.done is None or job.local is None:
            return
        if job.is_confirmed:
            if job.own_version and job.is_new:
                self._context.recent.confirm(job.key, job.record, turn.now, existed=job.existed)
            self._finish(turn, job, Status.OK, job.record.version)
        elif job.is_refused and job.own_version:
            self._finish(turn, job, Status.BAD_VERSION, job.stands)
        elif job.is_refused:
            self._again(turn, job)
        elif job.is_overtaken:
            self._finish(turn, job, Status.CONFLICT, job.stands)
        elif not job.waiting:
            self._finish(turn, job, Status.UNCONFIRMED)

    def _too_late(self, job: WriteJob, turn: Turn) -> None:
        job.alarm = None
        self._finish(turn, job, Status.UNCONFIRMED)

    def _finish(self, turn: Turn, job: WriteJob, status: Status, version: int = 0) -> None:
        done, job.done = job.done, None
        if job.alarm is not None:
            job.alarm[2] = None
        if done is not None:
            if job.is_new:
                self._context.counters[f"writes_{status.name.lower()}"] += 1
            done(turn, Written(status, version, job.existed))


def pack_stored(record: StoredRecord, nonce: int | None = None) -> bytes:
    """A record as nodes exchange it: with its expiry, Unix seconds, in place of the TTL; `nonce`: of a decided write."""
    version, expiry, flags, value = record
    if nonce is not None:
        return pack_decided(Record(version, expiry, flags & _TOMBSTONE, value), nonce)
    return RECORD.pack(version, expiry, flags & _TOMBSTONE) + value


def is_behind(body: bytes) -> bool:
    """Whether the node that answers a STORE so has not caught up on the key."""
    return len(body) < RECORD_LEN or bool(RECORD.unpack_from(body)[2] & _BEHIND)


def version_in(body: bytes) -> int:
    """The version in a reply to STORE or PROMISE; 0 if there is none."""
    return int(RECORD.unpack_from(body)[0]) if len(body) >= RECORD_LEN else 0
