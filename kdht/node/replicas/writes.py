"""One write to all replicas of its key.

The coordinator writes to its own store and sends STORE to the other replicas, all at once. The client is told once
enough nodes have the record on stable storage (`acks`; of a soft write, once enough nodes can give it to readers), and a majority of the replicas among them.

A round ends as follows. The first line that holds is taken, at each answer, provided that the own store has answered:

| what is known | what follows |
|---|---|
| enough nodes have it, and enough seats (`is_confirmed`) | OK |
| no node has it or can have it (`is_refused`), and one has no room for it | FULL |
| the own store has a self-certified record, and this one is none | DENIED |
| the own store failed, and no STORE was sent | STORAGE_FAILED, or BUSY if too many writes wait |
| no node has it or can have it (`is_refused`), a promise is in the way (`is_outbid`), and the version is the client's | BUSY |
| no node has it or can have it, for another reason, and the version is the client's | BAD_VERSION |
| the same, and the version was given here | another round with a greater version; after four rounds UNCONFIRMED |
| a read brings it, and a majority of the seats has it or something newer | CONFLICT |
| no answer is awaited any more | UNCONFIRMED |
| 1.5 s are over | UNCONFIRMED |

What each answer of another node does:

| answer | what follows |
|---|---|
| OK | it has the record. If it has caught up it counts in its seat; else it leaves its seat to the next closest |
| CONFLICT: it has something newer | the write is disputed: from now on only seats count |
| BAD_VERSION: it promised a greater version | the same, and the key is compared soon |
| none in the usual time | the next closest contact is asked too |
| none at all, or a failed disk | the node may have it; the next closest contact is asked, the key is compared soon |
| FULL | the next closest contact is asked too. The node keeps its seat |
| port closed | the same, and the node leaves its seat |

A silent node keeps its seat. It may live, and other nodes may hear it. So the contact that is asked beside it adds a
copy, but no seat. A majority of the seats matters because a quorum read hears a majority of the replicas that have caught
up, and so meets a node with the record.

BAD_VERSION lets the client choose a greater version, so it must last: a copy of the request that comes to another node later
would else be done beside the same write under that version. A newer record lasts. A promise may be given back.

All tries of a write have one version. A version given here is replaced only if all nodes refused it: otherwise a reader
might have seen it already. Conditional writes are decided by promises first (`conditions`).
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from kdht.errors import StorageError
from kdht.node._timers import Alarm
from kdht.node.replicas._turns import Outcome, Planned, Turn
from kdht.node.replicas.calls import CLOSED, SLOW, AskedReplica, ReplicaAnswer, ReplicaCall, ReplicaQuestion
from kdht.node.replicas.context import CoordinatorContext, Quorum
from kdht.node.replicas.seats import Seats, Where
from kdht.storage import Result, StoredRecord, Write
from kdht.times import SteadyTime
from kdht.wire import RECORD, Address, Contact, Record, pack_decided
from kdht.wire._shared import RECORD_LEN, Op, RecordFlag, Status
from kdht.wire.certified import CERTIFIED, STORED_FLAGS

WRITE_DEADLINE = 1.5
"""Seconds after which a write with too few confirmations is UNCONFIRMED."""
MAX_WRITE_ROUNDS = 4
# As a plain number: an enum's operators cost more than the rest.
_KEPT_FLAGS = int(RecordFlag.TOMBSTONE) | STORED_FLAGS
_BEHIND = int(RecordFlag.BEHIND)
_SOFT = int(RecordFlag.SOFT)
SPARE = 6
"""Contacts beyond the replicas that may take the place of silent ones."""
BEFORE = 32
"""Contacts beyond those: they may have kept a key before many nodes joined at once."""


class Written(NamedTuple):
    """The outcome of a write. `version` of a refusal: the version in the store, the promised one, or the time."""

    status: Status
    version: int
    existed: bool


Done = Callable[[Turn, Written], None]


class UnderWay(NamedTuple):
    """A client's write that `_common_writes` began. So far nobody has refused it, and nobody was late."""

    key: bytes
    record: StoredRecord
    quorum: Quorum
    done: Done | None
    """None: the client was told OK."""
    own_version: bool
    existed: bool
    here: bool
    """Whether the own store has it."""
    near: Sequence[Contact]
    taken: int
    question: ReplicaQuestion | None
    asked: Sequence[AskedReplica]
    deadline: SteadyTime
    place: int
    """The place of the deadline's alarm, as in Timers."""
    soft: bool = False


class WriteJob:
    """One write until it is answered. Later confirmations have no effect."""

    __slots__ = (
        "acks", "alarm", "asked", "disputed", "done", "existed", "full", "has", "is_new", "key", "local", "near", "newer",
        "own_version", "question", "quorum", "record", "repeated", "round", "seats", "soft", "stands", "taken", "unsure",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        record: StoredRecord,
        quorum: Quorum,
        done: Done | None,
        *,
        is_new: bool,
        soft: bool = False,
    ) -> None:
        self.key = key
        self.record = record
        self.quorum = quorum
        self.done = done
        self.is_new = is_new
        """Whether this is a client's write. Otherwise a read brings an existing record to other nodes."""
        self.soft = soft
        """Whether the nodes may confirm it before it is on their disks."""
        self.own_version = record.version != 0
        """Whether the client chose the version."""
        self.round = 0
        self.stands = 0
        """The greatest version in a refusal."""
        self.existed = False
        self.alarm: Alarm | None = None

    def start(self) -> None:
        """A new round."""
        self.acks = 0
        """Number of nodes with the record."""
        self.has: set[Where] = set()
        """The nodes among them that have caught up."""
        self.newer: set[Where] = set()
        """Nodes that have caught up and have something newer."""
        self.disputed = False
        """Whether any node refused it."""
        self.repeated = False
        """Whether a node refused a repeated STORE. It may have taken the record at the first one."""
        self.full = False
        """Whether a node has no room for it."""
        self.unsure = False
        """Whether a node that was asked never answered."""
        self.waiting = 0
        """Number of answers that may still come."""
        self.question: ReplicaQuestion | None = None
        """The STORE of this round."""
        self.asked: set[Where] = {None}
        self.near: Sequence[Contact] = ()
        """Contacts to ask, the closest first; `taken` of them were looked at."""
        self.taken = 0
        self.seats: Seats | None = None
        """None as long as only the replicas were asked and all have their seats, as nearly always."""
        self.local: Status | None = None
        """The answer of the own store, once it is there."""

    @property
    def is_confirmed(self) -> bool:
        quorum, held = self.quorum, self.seated(self.has)
        if not self.is_new:
            return held >= quorum.majority
        # Nobody has anything newer, so stand-ins count too: repair brings the record to the replicas.
        if not self.disputed:
            return self.acks >= quorum.acks and held >= min(quorum.majority, quorum.acks)
        # A refusal: a stand-in does not count now, because it does not know the newer record.
        return held >= quorum.majority and held + self.seated(self.newer) >= quorum.acks

    @property
    def is_refused(self) -> bool:
        """Whether no node has the record, or ever had it.

        If any node has it, a quorum read may have brought it to a replica that has something newer by now. Then a
        reader has seen it.
        """
        # A node that never answered, or refused a repetition, may have taken the record at the first STORE.
        return self.is_new and not (self.acks or self.repeated or self.unsure or self.waiting)

    @property
    def is_outbid(self) -> bool:
        """Of a refused write: whether a promise is in the way, and no majority has a newer record. It may be given back."""
        # A refusal for the time tells the time, which is below a version that is too far ahead.
        return self.stands > self.record.version and self.seated(self.newer) < self.quorum.majority

    @property
    def is_overtaken(self) -> bool:
        """Whether a majority of the seats has the record of a read, or something newer."""
        # Only a write-back may end so. A new write, seen perhaps by a reader, is UNCONFIRMED then.
        if self.is_new or not self.newer:
            return False
        return self.seated(self.has) + self.seated(self.newer) >= self.quorum.majority

    def seated(self, nodes: set[Where]) -> int:
        """The number of these nodes with a seat."""
        return len(nodes) if self.seats is None else len(nodes & self.seats.taken)


class Writes:
    """All writes under way at one coordinator."""

    def __init__(self, context: CoordinatorContext) -> None:
        self._context = context

    def write(
        self,
        turn: Turn,
        key: bytes,
        record: StoredRecord,
        quorum: Quorum,
        done: Done,
        *,
        soft: bool = False,
    ) -> None:
        """Replicate a record. Version 0 means that the version is chosen here. `soft`: as in `storage.Write`."""
        self._context.counters["writes"] += 1
        self._context.counters["writes_soft"] += soft
        job = WriteJob(key, record, quorum, done, is_new=True, soft=soft)
        job.alarm = turn.after(WRITE_DEADLINE, partial(self._too_late, job))
        self._begin(turn, job)

    def go_on(self, turn: Turn, found: UnderWay) -> WriteJob:
        """Take over a write."""
        job = WriteJob(found.key, found.record, found.quorum, found.done, is_new=True, soft=found.soft)
        job.start()
        job.own_version, job.existed = found.own_version, found.existed
        job.near, job.taken, job.question = found.near, found.taken, found.question
        job.local = Status.OK if found.here else None
        job.has.update(each.address for each in found.asked if each.answered)
        job.has.update([None] if found.here else [])
        job.acks = len(job.has)
        job.asked.update(each.address for each in found.asked)
        if job.done is not None:
            job.alarm = turn.at(found.deadline, partial(self._too_late, job), found.place)
        for each in found.asked:
            if found.question is not None and not each.answered:
                told = partial(self._answered, job, job.round)
                self._context.calls.go_on(turn, found.question, each, told)
                job.waiting += 1
        return job

    def stored(self, turn: Turn, job: WriteJob, outcome: Outcome) -> None:
        """The own store has answered to a write that was taken over."""
        self._written(job, 0, turn, outcome)

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
        """Bring the record of a read to `lacking` nodes, and to the own store (`here`), until `need` seats have it.

        `has`: nodes with the record that have caught up. Other nodes with it have left their seats already. The outcome
        is CONFLICT if `need` seats have it or something newer.
        """
        job = WriteJob(key, record, Quorum(need, need, need), done, is_new=False)
        job.start()
        job.seats, job.has = seats, has
        # They have the record, or their seat has gone to another node: no STORE to them.
        job.asked |= has | seats.left
        job.alarm = turn.after(WRITE_DEADLINE, partial(self._too_late, job))
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
        # A client without a clock: each round is another write, with a version from here.
        if not job.own_version:
            job.record = job.record._replace(version=context.clock.next(turn.now, above=job.stands))
        write = Write(job.key, job.record, soft=job.soft)
        turn.writes.append(Planned(write, partial(self._written, job, job.round)))
        others = context.cluster.policy.replicas - 1
        job.near = context.core.closest(job.key, others + SPARE) if others else ()
        for _ in range(others):
            self._store_next(turn, job)

    def _store_next(self, turn: Turn, job: WriteJob) -> None:
        replicas = self._context.cluster.policy.replicas
        while job.taken < len(job.near):
            address = job.near[job.taken].address
            job.taken += 1
            # A stand-in must not count in the majority, so seats are counted from here on.
            if job.taken >= replicas:
                self._seats(job)
            if address not in job.asked and self._store(turn, job, address):
                return

    def _seats(self, job: WriteJob) -> Seats:
        """Count seats from now on. This node is one of the replicas; its rank does not matter."""
        if job.seats is None:
            order = [None, *(contact.address for contact in job.near)]
            job.seats = Seats(order, self._context.cluster.policy.replicas)
        return job.seats

    def _store(self, turn: Turn, job: WriteJob, address: Address) -> bool:
        job.asked.add(address)
        calls = self._context.calls
        if job.question is None:
            job.question = calls.question(Op.STORE, job.key, pack_stored(job.record, soft=job.soft))
        sent = calls.ask(turn, job.question, address, partial(self._answered, job, job.round))
        job.waiting += sent
        return sent

    def _written(self, job: WriteJob, round: int, turn: Turn, outcome: Outcome) -> None:
        """The own store has answered."""
        if job.round != round:
            return
        if isinstance(outcome, Result) and outcome.full:
            job.local = Status.FULL
            job.full = True
        elif not isinstance(outcome, Result):
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
            # The own store took its proof. No other node need be heard, and no greater version is given.
            if outcome.version >= CERTIFIED > job.record.version:
                self._finish(turn, job, Status.DENIED)
                return
            if outcome.accepted:
                self._has(turn, job, None, behind=behind)
            else:
                stands = outcome.promised or outcome.version
                self._refused(turn, job, None, stands, newer=not outcome.promised, behind=behind)
        self.finish_if_decided(turn, job)

    def _answered(
        self, job: WriteJob, round: int, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str
    ) -> None:
        """A replica has answered, is late, or is given up."""
        if job.round != round:
            return
        if what is SLOW:
            if job.done is not None:
                self._store_next(turn, job)
            return
        job.waiting -= 1
        where = call.address
        if isinstance(what, ReplicaAnswer) and what.status is Status.OK:
            self._has(turn, job, where, behind=is_behind(what.body))
        elif isinstance(what, ReplicaAnswer) and what.status is Status.FULL:
            # It will say the same for a while. So its key is left to the regular comparisons.
            job.full = True
            if job.done is not None:
                self._store_next(turn, job)
        elif isinstance(what, ReplicaAnswer) and what.status in (Status.CONFLICT, Status.BAD_VERSION):
            newer = what.status is Status.CONFLICT
            job.repeated |= call.tries > 1
            self._refused(turn, job, where, version_in(what.body), newer=newer, behind=is_behind(what.body))
            if not newer:
                self._context.on_missed(job.key)
        else:
            job.unsure = True
            self._context.on_missed(job.key)
            # A dead process cannot take the write, nor catch up by a comparison from before it.
            if what is CLOSED:
                self._seats(job).leave(where)
            if job.done is not None:
                self._store_next(turn, job)
        self.finish_if_decided(turn, job)

    def _has(self, turn: Turn, job: WriteJob, where: Where, *, behind: bool) -> None:
        """A node has the record."""
        job.acks += 1
        if behind:
            self._context.counters["confirmed_behind"] += 1
            self._leave_seat(turn, job, where)
        else:
            job.has.add(where)

    def _refused(
        self, turn: Turn, job: WriteJob, where: Where, version: int, *, newer: bool, behind: bool
    ) -> None:
        """A node refused the record because of `version`."""
        # So the next version made here is above it.
        self._context.clock.seen(version, turn.now)
        job.stands = max(job.stands, version)
        job.disputed = True
        # A joiner's record says nothing of the majority: its seat goes to an earlier replica.
        if newer and behind:
            self._leave_seat(turn, job, where)
        elif newer:
            job.newer.add(where)

    def _leave_seat(self, turn: Turn, job: WriteJob, where: Where) -> None:
        """A node that has not caught up counts in no majority, although it has the record. Ask an earlier replica."""
        seats = self._seats(job)
        seats.leave(where)
        is_short = len(seats.taken & job.asked) < job.quorum.majority
        if job.done is None or not (where in seats.first or is_short):
            return
        if job.taken >= len(job.near):
            self._look_farther(job, seats)
        self._store_next(turn, job)

    def _look_farther(self, job: WriteJob, seats: Seats) -> None:
        """Find earlier replicas: contacts that kept the key before many others joined."""
        job.near = self._context.core.closest(job.key, self._context.cluster.policy.replicas + SPARE + BEFORE)
        job.taken = 0
        own: list[Where] = [None] if None in seats.order else []
        seats.extend([*own, *(contact.address for contact in job.near)])

    def _again(self, turn: Turn, job: WriteJob) -> None:
        """All refused this version. Try again with a greater one."""
        job.round += 1
        self._context.counters["write_rounds"] += 1
        if job.round >= MAX_WRITE_ROUNDS:
            self._finish(turn, job, Status.UNCONFIRMED)
        else:
            self._begin(turn, job)

    def finish_if_decided(self, turn: Turn, job: WriteJob) -> None:
        """Answer the client once the outcome is known: the first table above."""
        if job.done is None or job.local is None:
            return
        if job.is_confirmed:
            # A late retry of this write is OK here, even after another write.
            if job.own_version and job.is_new:
                self._context.recent.confirm(job.key, job.record, turn.now, existed=job.existed)
            self._finish(turn, job, Status.OK, job.record.version)
        elif job.is_refused and job.full:
            self._finish(turn, job, Status.FULL)
        # Only this row allows a new version: in every other somebody may have been told of this one.
        elif job.is_refused and job.own_version:
            status = Status.BUSY if job.is_outbid else Status.BAD_VERSION
            self._finish(turn, job, status, job.stands)
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


def pack_stored(record: StoredRecord, nonce: int | None = None, *, soft: bool = False) -> bytes:
    """A record as nodes send it, with its expiry in Unix seconds in place of the TTL. `nonce`: of a conditional write."""
    if soft:
        return RECORD.pack(record.version, record.expiry, _SOFT) + record.value
    version, expiry, flags, value = record
    if nonce is not None:
        return pack_decided(Record(version, expiry, flags & _KEPT_FLAGS, value), nonce)
    return RECORD.pack(version, expiry, flags & _KEPT_FLAGS) + value


def is_behind(body: bytes) -> bool:
    """Whether this reply to a STORE comes from a node that has not caught up on the key."""
    return len(body) < RECORD_LEN or bool(RECORD.unpack_from(body)[2] & _BEHIND)


def version_in(body: bytes) -> int:
    """The version in a reply to STORE or PROMISE, 0 if there is none."""
    return int(RECORD.unpack_from(body)[0]) if len(body) >= RECORD_LEN else 0
