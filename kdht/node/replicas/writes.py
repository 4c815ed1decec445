"""One write to all replicas of its key.

The coordinator gives the version, writes to its own store and sends STORE to the other replicas, all at
once; the writer is told once enough of them have it on stable storage. A replica that is slow
or refuses is replaced by the next closest contact; one that holds a greater version makes the
coordinator try again, above it. A conditional write is decided in the own store first: nobody
else hears of it before.
"""

from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from kdht._shared import RECORD_LEN, Op, RecordFlag, Status
from kdht.errors import StorageError
from kdht.node.replicas.calls import SLOW, Answer, Call, Question
from kdht.node.replicas.room import Room
from kdht.node.replicas.turns import Outcome, Planned, Turn
from kdht.node.timers import Alarm
from kdht.storage import Stored, Write
from kdht.wire import RECORD, Address, Contact

DEADLINE = 1.5
"""Seconds after which a write that too few confirmed is UNCONFIRMED."""
MAX_ROUNDS = 4
# As a plain number: an enum's operators cost more than the rest.
_TOMBSTONE = int(RecordFlag.TOMBSTONE)
SPARE = 6
"""Contacts beyond the replicas that may take the place of silent ones."""


class Written(NamedTuple):
    """What became of a write; `version` of a CONFLICT is what stands."""

    status: Status
    version: int
    existed: bool


Done = Callable[[Turn, Written], None]


class WriteJob:
    """One write until it is answered; late confirmations change nothing any more."""

    __slots__ = (
        "acks", "alarm", "asked", "candidates", "condition", "done", "existed", "key", "local", "need",
        "question", "record", "round", "waiting",
    )  # fmt: skip

    def __init__(self, key: bytes, record: Stored, need: int, done: Done, condition: int | None) -> None:
        self.key = key
        self.record = record
        self.need = need
        self.done: Done | None = done
        self.condition = condition
        self.acks = 0
        self.round = 0
        self.waiting = 0
        """Replicas that may still confirm."""
        self.question: Question | None = None
        """What the other replicas are asked in this round."""
        self.asked: set[Address] = set()
        self.candidates: deque[Contact] = deque()
        self.local: Status | None = None
        """What the own store said; None until then."""
        self.existed = False
        self.alarm: Alarm | None = None


class Writes:
    """All writes under way at one coordinator."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def write(
        self, turn: Turn, key: bytes, record: Stored, need: int, done: Done, condition: int | None = None
    ) -> None:
        """Replicate a new record, whose version is given here; `need` replicas have to confirm."""
        self._room.counters["writes"] += 1
        job = WriteJob(key, record, need, done, condition)
        job.alarm = turn.after(DEADLINE, partial(self._too_late, job))
        self._begin(turn, job)

    def spread(
        self, turn: Turn, key: bytes, record: Stored, lacking: Collection[Address], need: int, done: Done
    ) -> None:
        """Bring a record that has its version to `lacking` replicas, until `need` of them confirm."""
        job = WriteJob(key, record, need, done, None)
        job.local = Status.OK
        job.alarm = turn.after(DEADLINE, partial(self._too_late, job))
        for address in lacking:
            self._store(turn, job, address)
        self._settle(turn, job)

    def _begin(self, turn: Turn, job: WriteJob) -> None:
        room = self._room
        job.record = job.record._replace(version=room.clock.next(turn.now))
        job.acks = job.waiting = 0
        job.local = job.question = None
        job.asked.clear()
        write = Write(job.key, job.record, job.condition)
        turn.writes.append(Planned(write, partial(self._written, job, job.round)))
        if job.condition is None:
            self._send_out(turn, job)

    def _send_out(self, turn: Turn, job: WriteJob) -> None:
        others = self._room.policy.replicas - 1
        job.candidates = deque(self._room.core.closest(job.key, others + SPARE) if others else ())
        for _ in range(others):
            self._store_next(turn, job)

    def _store_next(self, turn: Turn, job: WriteJob) -> None:
        while job.candidates:
            address = job.candidates.popleft().address
            if address not in job.asked and self._store(turn, job, address):
                return

    def _store(self, turn: Turn, job: WriteJob, address: Address) -> bool:
        job.asked.add(address)
        calls = self._room.calls
        if job.question is None:
            job.question = calls.question(Op.STORE, job.key, pack_stored(job.record))
        sent = calls.ask(turn, job.question, address, partial(self._answered, job, job.round))
        job.waiting += sent
        return sent

    def _written(self, job: WriteJob, round: int, turn: Turn, outcome: Outcome) -> None:
        """The own store's word."""
        if job.round != round:
            return
        if outcome is None or isinstance(outcome, StorageError):
            job.local = Status.BUSY if outcome is None else Status.STORAGE_FAILED
            if job.condition is not None or not job.asked:
                self._finish(turn, job, job.local)
            else:
                self._settle(turn, job)
            return
        if round == 0:
            job.existed = outcome.existed
        if outcome.accepted:
            job.local = Status.OK
            job.acks += 1
            if job.condition is not None:
                job.condition = None  # decided: from now on it is a write like all others
                self._send_out(turn, job)
            self._settle(turn, job)
        elif job.condition is not None and job.condition != outcome.seen:
            self._finish(turn, job, Status.CONFLICT, outcome.seen)
        else:
            self._again(turn, job, outcome.version)

    def _answered(self, job: WriteJob, round: int, turn: Turn, call: Call, what: Answer | str) -> None:
        """A replica's word, or its silence."""
        if job.round != round:
            return
        if what is SLOW:
            if job.done is not None:
                self._store_next(turn, job)
            return
        job.waiting -= 1
        if isinstance(what, Answer) and what.status is Status.OK:
            job.acks += 1
            self._settle(turn, job)
        elif isinstance(what, Answer) and what.status is Status.CONFLICT:
            self._again(turn, job, version_in(what.body))
        else:
            self._room.on_missed(job.key)
            if job.done is not None:
                self._store_next(turn, job)
                self._settle(turn, job)

    def _again(self, turn: Turn, job: WriteJob, version: int) -> None:
        """A greater version stands somewhere: the same write once more, above it."""
        self._room.clock.seen(version)
        if job.done is None:
            return
        job.round += 1
        self._room.counters["write_rounds"] += 1
        if job.round >= MAX_ROUNDS:
            self._finish(turn, job, Status.UNCONFIRMED)
        else:
            self._begin(turn, job)

    def _settle(self, turn: Turn, job: WriteJob) -> None:
        """Answer if enough have confirmed, or if no more can."""
        if job.done is None or job.local is None:
            return
        if job.acks >= job.need:
            self._finish(turn, job, Status.OK, job.record.version)
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
            self._room.counters[f"writes_{status.name.lower()}"] += 1
            done(turn, Written(status, version, job.existed))


def pack_stored(record: Stored) -> bytes:
    """A record as nodes exchange it: with its expiry, Unix seconds, in place of the TTL."""
    return RECORD.pack(record.version, record.expiry, record.flags & _TOMBSTONE) + record.value


def version_in(body: bytes) -> int:
    """The version in a reply to STORE; 0 if there is none."""
    return int(RECORD.unpack_from(body)[0]) if len(body) >= RECORD_LEN else 0
