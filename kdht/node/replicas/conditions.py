"""Conditional writes: a majority promises to take nothing older. If the condition holds there, the write follows.

This is single-decree Paxos for each key (Lamport, "The Part-Time Parliament", 1998) in the manner of CASPaxos (Rystsov,
"CASPaxos: Replicated State Machines without logs", 2018). The ballot is (version, nonce) of the write.

    asked --- a majority granted ---> condition met ---> STOREs of the decided write ---> OK, or UNCONFIRMED
      |                                 `-- unmet: CONFLICT
      `-- a majority cannot grant ---> looked: a quorum read says OK (it is done already), CONFLICT or BAD_VERSION;
      |                                BUSY if only another promise is in the way
      `-- too few answered: BUSY

| state | fields of the job | leaves it |
|---|---|---|
| waits for earlier writes of the key | `ballot` 0, behind others in the queue | the write before it ends |
| asked | `ballot`, `waiting` promises | `_go_on`: a majority is in `granted`, or cannot be |
| decided | `decided`, `waiting` answers to STOREs | `finish_if_decided`: `acks`, or all that promised refuse (`denied`) |
| looked | `ballot` 0, promises given back | `_looked`: the quorum read ends |
| ended | `done` is empty | never |

Only OK and UNCONFIRMED leave promises behind; all other outcomes give them back. A coordinator works on one write of a key
at a time. Tries of one write that arrive together are one job.

Contract: the same as that of `Writes`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from kdht.errors import StorageError
from kdht.node._timers import Alarm
from kdht.node.replicas._turns import Outcome, Planned, Turn
from kdht.node.replicas.calls import SLOW, ReplicaAnswer, ReplicaCall, ReplicaQuestion
from kdht.node.replicas.context import CoordinatorContext, Quorum
from kdht.node.replicas.quorum_reads import Done as ReadDone
from kdht.node.replicas.quorum_reads import ReadOutcome
from kdht.node.replicas.writes import MAX_WRITE_ROUNDS, WRITE_DEADLINE, Done, Written, pack_stored, version_in
from kdht.storage import Granted, Promise, Result, StoredRecord, Write, visible
from kdht.wire import RECORD, Address, pack_promise
from kdht.wire._shared import RECORD_LEN, TRY_BITS, Op, Status
from kdht.wire.certified import CERTIFIED

# At two round trips and two syncs each the last one waits for a second. Its client gives up soon after.
MAX_WAITING = 64
"""Conditional writes of one key that wait at a coordinator; more are BUSY."""

Where = Address | None
"""A replica; None is this node."""


class QuorumRead(Protocol):
    def __call__(
        self,
        turn: Turn,
        key: bytes,
        own: StoredRecord | None,
        done: ReadDone,
        *,
        quorum: bool,
        caught_up: bool,
    ) -> None: ...


class ConditionJob:
    """One conditional write until it is answered."""

    __slots__ = (
        "acks", "alarm", "ballot", "condition", "decided", "denied", "done", "full", "granted", "here", "key", "nonce", "others",
        "own_version", "question", "quorum", "record", "refused", "round", "stands", "waiting",
    )  # fmt: skip

    def __init__(
        self, key: bytes, record: StoredRecord, condition: int, nonce: int, quorum: Quorum, done: Done
    ) -> None:
        self.key = key
        self.record = record
        self.condition = condition
        self.nonce = nonce
        self.quorum = quorum
        self.done = [done]
        """One callback for each try; empty once they were called."""
        self.own_version = record.version != 0
        self.round = 0
        self.stands = 0
        """The greatest version in a refusal, of all rounds."""
        self.alarm: Alarm | None = None
        self.start()

    def start(self) -> None:
        """A new round."""
        self.ballot = 0
        """The version of the promises asked for or granted; 0 once they are given back."""
        self.waiting = 0
        """Number of answers that may still come, to PROMISE and to STORE."""
        self.others: set[Address] = set()
        """The other replicas that were asked."""
        self.granted: dict[Where, StoredRecord] = {}
        """The record at each node that granted a promise, without its value."""
        self.refused = 0
        """The greatest version in a refusal of a promise, 0 if there was none."""
        self.decided = False
        self.question: ReplicaQuestion | None = None
        """The STORE."""
        self.acks = 0
        self.here: bool | None = None
        """Whether the own store has answered to the write; None: it has not been asked."""
        self.full = False
        """Whether a replica has no room for it."""
        self.denied = 0
        """Number of replicas that granted a promise and refused the STORE all the same."""

    def is_same(self, other: "ConditionJob") -> bool:
        """Whether both are tries of one write."""
        return (
            self.nonce >> TRY_BITS == other.nonce >> TRY_BITS
            and self.condition == other.condition
            and self.record._replace(version=0, expiry=0) == other.record._replace(version=0, expiry=0)
            and self.own_version == other.own_version
            and (not self.own_version or self.record.version == other.record.version)
        )


class Conditions:
    """All conditional writes at one coordinator. `may_promise(key)`: whether this node may promise as a replica.
    `is_caught_up`: as in KeptRecords.
    """

    def __init__(
        self,
        context: CoordinatorContext,
        read: QuorumRead,
        may_promise: Callable[[bytes], bool],
        is_caught_up: Callable[[bytes], bool],
    ) -> None:
        self._context = context
        self._read = read
        self._may_promise = may_promise
        self._is_caught_up = is_caught_up
        self._queues: dict[bytes, deque[ConditionJob]] = {}
        """By key; the first of each is under way."""

    def write(self, turn: Turn, job: ConditionJob) -> None:
        """Begin a write, or queue it behind earlier writes of the key."""
        queue = self._queues.setdefault(job.key, deque())
        for other in queue:
            # Another try of the same write: both get one outcome.
            if other.is_same(job) and len(other.done) < MAX_WAITING:
                other.done += job.done
                self._context.recent.merged(job.key, job.record.version, job.nonce, turn.now)
                return
        if len(queue) >= MAX_WAITING:
            job.done[0](turn, Written(Status.BUSY, 0, existed=False))
            return
        self._context.counters["writes"] += 1
        # From the queueing on: the client's time runs while the write waits for others.
        job.alarm = turn.after(WRITE_DEADLINE, partial(self._too_late, job))
        queue.append(job)
        # One at a time for each key, so writers that meet here do not outbid each other's promises.
        if len(queue) == 1:
            self._begin(turn, job)

    # --- The promises

    def _begin(self, turn: Turn, job: ConditionJob) -> None:
        try:
            own = self._context.store.get(job.key, turn.now)
        except StorageError:
            self._finish(turn, job, Status.STORAGE_FAILED)
            return
        seen = _version(visible(own, turn.now))
        if own is not None and own.version >= CERTIFIED > job.record.version:
            self._finish(turn, job, Status.DENIED)
        # Stored by an earlier try. Whether a majority has it, a quorum read tells.
        elif own is not None and _is_of(own, job):
            self._look(turn, job)
        elif _version(own) > job.condition and (seen or job.condition):
            # The condition names an older version than that of an existing record: it can never hold again.
            self._finish(turn, job, Status.CONFLICT, seen)
        else:
            self._ask(turn, job)

    def _ask(self, turn: Turn, job: ConditionJob) -> None:
        context = self._context
        job.start()
        if not job.own_version:
            # Above every version that refused the last round, or the next would fail in the same way.
            job.record = job.record._replace(version=context.clock.next(turn.now, above=job.stands))
        version = job.ballot = job.record.version
        # A replica that is behind, or a stand-in, would make a majority that need not meet the others.
        if self._may_promise(job.key):
            job.waiting += 1
            promise = Promise(job.key, version, job.nonce)
            # The own promise goes through the writer, in the order of all writes of the key. It counts only
            # once it is synced.
            turn.writes.append(Planned(promise, partial(self._promised_here, job, version)))
        question = context.calls.question(Op.PROMISE, job.key, _promise_body(job))
        others = context.cluster.policy.replicas - 1
        closest = context.core.closest(job.key, others) if others else []
        job.others = {contact.address for contact in closest}
        for contact in closest:
            told = partial(self._promised, job, version)
            job.waiting += context.calls.ask(turn, question, contact.address, told)
        self._go_on(turn, job)

    def _promised_here(self, job: ConditionJob, ballot: int, turn: Turn, outcome: Outcome) -> None:
        if not isinstance(outcome, Granted):
            self._heard(turn, job, ballot, None, None, 0)
        elif outcome.accepted:
            head = StoredRecord(outcome.version, outcome.expiry, outcome.flags, b"")
            self._heard(turn, job, ballot, None, head, 0)
        else:
            self._heard(turn, job, ballot, None, None, outcome.version)

    def _promised(
        self, job: ConditionJob, ballot: int, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str
    ) -> None:
        head, refused = None, 0
        if what is SLOW:
            return
        if isinstance(what, ReplicaAnswer) and what.status is Status.OK and len(what.body) == RECORD_LEN:
            version, expiry, flags = RECORD.unpack(what.body)
            head = StoredRecord(version, expiry, flags, b"")
        elif isinstance(what, ReplicaAnswer) and what.status is Status.BAD_VERSION:
            refused = version_in(what.body)
        self._heard(turn, job, ballot, call.address, head, refused)

    def _heard(
        self,
        turn: Turn,
        job: ConditionJob,
        ballot: int,
        where: Where,
        head: StoredRecord | None,
        refused: int,
    ) -> None:
        """A replica has answered the PROMISE with its record, with the version of a refusal, or not at all."""
        if job.ballot != ballot:
            # The round is over. A promise that is kept for nobody would hinder other writers until it ends.
            if not refused:  # it was granted, or its answer was lost
                self._give_back_to(turn, job, ballot, where)
            return
        job.waiting -= 1
        self._context.clock.seen(refused, turn.now)
        job.refused = max(job.refused, refused)
        job.stands = max(job.stands, refused)
        if head is not None:
            job.granted[where] = head
            if job.decided:
                self._store(turn, job, where)
        self._go_on(turn, job)

    def _go_on(self, turn: Turn, job: ConditionJob) -> None:
        if job.decided:
            self.finish_if_decided(turn, job)
        elif len(job.granted) >= job.quorum.majority:
            self._decide(turn, job)
        # No majority can come together any more, whatever the others answer.
        elif len(job.granted) + job.waiting < job.quorum.majority:
            if job.refused:
                self._look(turn, job)
            else:
                self._finish(turn, job, Status.BUSY)

    # --- The write

    def _decide(self, turn: Turn, job: ConditionJob) -> None:
        # By version alone: a tombstone is the current record too.
        newest = max(job.granted.values(), key=lambda head: head.version)
        seen = _version(visible(newest, turn.now))
        # Of m answers one has every confirmed record, so the newest of them is the current one.
        if seen != job.condition:
            self._finish(turn, job, Status.CONFLICT, seen)
            return
        job.decided = True
        # Only to replicas with a promise: the others may have promised a greater ballot.
        for where in list(job.granted):
            self._store(turn, job, where)
        self.finish_if_decided(turn, job)

    def _store(self, turn: Turn, job: ConditionJob, where: Where) -> None:
        if where is None:
            job.waiting += 1
            job.here = False
            write = Write(job.key, job.record, job.nonce)
            turn.writes.append(Planned(write, partial(self._stored_here, job)))
            return
        calls = self._context.calls
        if job.question is None:
            job.question = calls.question(Op.STORE, job.key, pack_stored(job.record, job.nonce))
        job.waiting += calls.ask(turn, job.question, where, partial(self._stored, job))

    def _stored_here(self, job: ConditionJob, turn: Turn, outcome: Outcome) -> None:
        job.here = True
        job.full |= isinstance(outcome, Result) and outcome.full
        self._acked(turn, job, outcome.accepted if isinstance(outcome, Result) else None)

    def _stored(self, job: ConditionJob, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
        if what is SLOW:
            return
        status = what.status if isinstance(what, ReplicaAnswer) else None
        is_refusal = status in (Status.CONFLICT, Status.BAD_VERSION, Status.FULL)
        job.full |= status is Status.FULL
        self._acked(turn, job, True if status is Status.OK else False if is_refusal else None)

    def _acked(self, turn: Turn, job: ConditionJob, accepted: bool | None) -> None:
        """A replica took the write (True), refused it (False), or did not answer (None)."""
        job.waiting -= 1
        job.acks += accepted is True
        # A refusal is certain. Silence may hide a write that was done.
        job.denied += accepted is False
        # Repair looks at this key soon: the replica may lack the record.
        if not accepted and not job.full:
            self._context.on_missed(job.key)
        self.finish_if_decided(turn, job)

    def finish_if_decided(self, turn: Turn, job: ConditionJob) -> None:
        """End the write once the outcome of its STOREs is known."""
        quorum = job.quorum
        if not job.done:
            return
        # Stand-ins do not count: they gave no promise.
        if job.acks >= max(quorum.acks, quorum.majority):
            if not self._is_here(turn, job):
                return
            if job.own_version:
                # A late try of this write finds its condition unmet, and must still be told OK.
                self._context.recent.confirm(job.key, job.record, turn.now, existed=job.condition != 0)
            self._tell_others(turn, job)
            self._finish(turn, job, Status.OK, job.record.version)
        elif not job.waiting and job.denied == len(job.granted) and job.full:
            job.decided = False
            self._finish(turn, job, Status.FULL)
        elif not job.waiting and job.denied == len(job.granted):
            job.decided = False  # a greater ballot won at all of them: this write changed nothing
            self._look(turn, job)
        elif not job.waiting:
            self._finish(turn, job, Status.UNCONFIRMED)

    def _is_here(self, turn: Turn, job: ConditionJob) -> bool:
        """Whether the own store has answered. Before that no client may hear of the write: a GET would not see it here."""
        if job.here is None:  # it gave no promise
            job.here = False
            turn.writes.append(Planned(Write(job.key, job.record), partial(self._told_here, job)))
        return job.here

    def _told_here(self, job: ConditionJob, turn: Turn, outcome: Outcome) -> None:
        job.here = True
        self.finish_if_decided(turn, job)

    def _tell_others(self, turn: Turn, job: ConditionJob) -> None:
        """Send the record to the replicas without a promise. One that is catching up may have compared this key already."""
        context = self._context
        question = context.calls.question(Op.STORE, job.key, pack_stored(job.record))
        for address in job.others - job.granted.keys():
            context.calls.ask(turn, question, address, partial(self._told, job.key))

    def _told(self, key: bytes, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
        if what is not SLOW and not isinstance(what, ReplicaAnswer):
            self._context.on_missed(key)

    # --- The present record

    def _look(self, turn: Turn, job: ConditionJob) -> None:
        """Ask a majority for its record. It may be this write itself, from an earlier try."""
        self._give_back(turn, job)
        caught_up = self._is_caught_up(job.key)  # before the look
        try:
            own = self._context.store.get(job.key, turn.now)
        except StorageError:
            self._finish(turn, job, Status.STORAGE_FAILED)
            return
        self._read(turn, job.key, own, partial(self._looked, job), quorum=True, caught_up=caught_up)

    def _looked(self, job: ConditionJob, turn: Turn, found: ReadOutcome) -> None:
        record = found.record
        if not job.done:
            return
        is_done = record is not None and _is_of(record, job)
        seen = _version(visible(record, turn.now))
        # The write may be there, and a majority was not heard: nobody may say that it is refused.
        if not found.enough:
            self._finish(turn, job, Status.UNCONFIRMED if is_done else Status.BUSY)
        elif is_done:
            self._finish(turn, job, Status.OK, job.record.version)
        elif seen != job.condition:
            self._finish(turn, job, Status.CONFLICT, seen)
        elif job.own_version:
            # As WriteJob.is_outbid: a promise may be given back, a newer record and the time stay.
            is_outbid = _version(record) < job.record.version < job.refused
            status = Status.BUSY if is_outbid else Status.BAD_VERSION
            self._finish(turn, job, status, max(job.refused, _version(record)))
        elif job.round < MAX_WRITE_ROUNDS:
            # A version of its own, so it may be raised. A client's version may not: it is the name of the
            # write.
            job.round += 1
            self._context.counters["write_rounds"] += 1
            self._ask(turn, job)
        else:
            self._finish(turn, job, Status.BUSY)

    # --- The end

    def _too_late(self, job: ConditionJob, turn: Turn) -> None:
        job.alarm = None
        # Undecided means that no STORE was sent, so nothing can have changed.
        self._finish(turn, job, Status.UNCONFIRMED if job.decided else Status.BUSY)

    def _give_back(self, turn: Turn, job: ConditionJob) -> None:
        """Free the replicas from their promises. Promises that are granted later are given back in `_heard`."""
        ballot, job.ballot = job.ballot, 0
        for where in job.granted:
            self._give_back_to(turn, job, ballot, where)
        job.granted.clear()

    def _give_back_to(self, turn: Turn, job: ConditionJob, ballot: int, where: Where) -> None:
        if where is None:
            turn.writes.append(Planned(Promise(job.key, ballot, job.nonce, True), _ignore_outcome))
            return
        calls = self._context.calls
        question = calls.question(Op.PROMISE, job.key, pack_promise(ballot, job.nonce, given_back=True))
        calls.ask(turn, question, where, _ignore_answer)

    def _finish(self, turn: Turn, job: ConditionJob, status: Status, version: int = 0) -> None:
        # Emptied first: a callback may lead back here.
        done, job.done = job.done, []
        if job.alarm is not None:
            job.alarm[2] = None
        if not done:
            return
        if status is Status.CONFLICT and job.own_version and version == job.record.version:
            # Another write has this version. A CONFLICT with the write's own version would say that it is done.
            status = Status.BAD_VERSION
        if not job.decided:
            self._give_back(turn, job)
        elif len(job.granted) < job.quorum.nodes:
            self._context.on_missed(job.key)  # a replica without a promise was sent no STORE
        self._context.counters[f"writes_{status.name.lower()}"] += 1
        for each in done:
            each(turn, Written(status, version, existed=job.condition != 0))
        self._next(turn, job)

    def _next(self, turn: Turn, job: ConditionJob) -> None:
        """Begin the next write of the key, unless this one was itself waiting."""
        queue = self._queues[job.key]
        was_first = queue[0] is job
        queue.remove(job)
        if not queue:
            del self._queues[job.key]
        elif was_first:
            self._begin(turn, queue[0])


def _ignore_outcome(turn: Turn, outcome: Outcome) -> None:
    """A promise that stays ends by itself. Repair brings a record that was not stored here."""


def _ignore_answer(turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
    """As `_ignore_outcome`."""


def _promise_body(job: ConditionJob) -> bytes:
    """The question for a promise. That for a self-certified record has the record, because no version above all ordinary
    ones is promised without a certificate."""
    version, _, flags, value = job.record
    certified = (flags, value) if version >= CERTIFIED else None
    return pack_promise(version, job.nonce, certified=certified)


def _version(record: StoredRecord | None) -> int:
    return record.version if record is not None else 0


def _is_of(record: StoredRecord, job: ConditionJob) -> bool:
    """Whether this record is the one that the job would write."""
    mine = job.record
    return job.own_version and record.version == mine.version and record[2:] == mine[2:]
