"""Histories in virtual time: the promises hold, and each fault that was mended is found when it is put back."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from histories.virtual.play import Played, play
from histories.virtual.schedule import PROFILES, Action, Fault, Schedule, draw
from histories.virtual.shrink import fewest, shrink
from histories.virtual.world import run
from kdht.client._exchange import Exchange
from kdht.client._reads import Read
from kdht.client._versions import Versions
from kdht.client._writes import WriteExchange
from kdht.datapath.memory import MemoryTransport
from kdht.errors import RequestError
from kdht.lab.virtual.disk import CrashStore, DiskWriter
from kdht.lab.virtual.process import Process
from kdht.node.repair import Repair
from kdht.node.repair.caught_up import CaughtUp, _Judged
from kdht.node.repair.cut_off import CutOff
from kdht.node.repair.ranges import KeptRange
from kdht.node.replicas import coordinator
from kdht.node.replicas._recent import Recent
from kdht.node.replicas.calls import ReplicaAnswer
from kdht.node.replicas.conditions import Conditions
from kdht.node.replicas.coordinator import Coordinator
from kdht.node.replicas.quorum_reads import ReadJob
from kdht.node.replicas.seats import Where
from kdht.node.replicas.writes import WriteJob, Writes, Written, version_in
from kdht.storage import StoredRecord, visible
from kdht.storage import Write as StoreWrite
from kdht.wire._shared import RECORD_LEN, Status

Patch = pytest.MonkeyPatch


def found(schedules: int, profile: str | None = None, *, seed: int = 1) -> Played | None:
    """The first history of so many that breaks a promise."""
    histories = (play(draw(number, profile)) for number in range(seed, seed + schedules))
    return next((played for played in histories if played.violations), None)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_promise_is_kept(profile: str):
    played = found(15, profile, seed=700)
    assert played is None, played.violations


def test_a_schedule_gives_the_same_history_each_time():
    schedule = draw(5)
    assert run(schedule) == run(schedule)


# --- Old faults, put back ------------------------------------------------------------------


def test_a_write_back_with_a_new_version_is_found(monkeypatch: Patch):
    answered = Writes._answered

    def again(
        self: Writes, job: WriteJob, round: int, turn: Any, call: Any, what: ReplicaAnswer | str
    ) -> None:
        if (
            job.round == round
            and not job.is_new
            and isinstance(what, ReplicaAnswer)
            and what.status is Status.CONFLICT
        ):
            self._context.clock.seen(version_in(what.body), turn.now)
            job.round += 1
            job.own_version = False
            self._begin(turn, job)
        else:
            answered(self, job, round, turn, call, what)

    monkeypatch.setattr(Writes, "_answered", again)
    assert found(30, "fixed", seed=2030)


def test_writes_without_an_identity_are_found(monkeypatch: Patch):
    """Each try of a write is given a version of its own, by a node."""
    put = Coordinator.put

    def anew(self: Coordinator, turn: Any, key: bytes, record: StoredRecord, done: Any, **how: Any) -> None:
        put(self, turn, key, record._replace(version=0), done, **how)

    monkeypatch.setattr(Coordinator, "put", anew)
    assert found(100, "fixed")


def test_late_copies_of_writes_without_an_identity_are_found(monkeypatch: Patch):
    """Nothing is lost, and nobody tries twice. A copy that comes a second or more later is another write."""
    put = Coordinator.put

    def anew(self: Coordinator, turn: Any, key: bytes, record: StoredRecord, done: Any, **how: Any) -> None:
        put(self, turn, key, record._replace(version=0), done, **how)

    monkeypatch.setattr(Coordinator, "put", anew)
    assert found(40, "late")


def test_stand_ins_that_count_as_replicas_are_found(monkeypatch: Patch):
    """Whoever took a write confirms it, a replica or not."""
    confirmed = WriteJob.is_confirmed

    def by_anybody(self: WriteJob) -> bool:
        return self.acks >= self.quorum.acks if self.is_new else bool(confirmed.__get__(self))

    monkeypatch.setattr(WriteJob, "is_confirmed", property(by_anybody))
    assert found(15, "stand-in", seed=2045)


def test_a_paused_node_with_stale_knowledge_is_found(monkeypatch: Patch):
    """What waited in its socket counts, it has caught up as before, and gives versions of now."""
    put = Coordinator.put

    def anew(self: Coordinator, turn: Any, key: bytes, record: StoredRecord, done: Any, **how: Any) -> None:
        waited = not self._repair.is_caught_up(key)
        put(self, turn, key, record._replace(version=0) if not waited else record, done, **how)

    monkeypatch.setattr(Repair, "catch_up_anew", lambda self: None)
    monkeypatch.setattr(MemoryTransport, "_is_late", lambda self, data, arrived: False)
    monkeypatch.setattr(Coordinator, "put", anew)
    assert found(200, "fixed")


def test_conditions_decided_by_one_node_are_found(monkeypatch: Patch):
    """At whatever replica a try ends, without promises."""

    def decide(self: Coordinator, turn: Any, key: bytes, record: StoredRecord, done: Any, **how: Any) -> None:
        condition = how["condition"]
        stands = visible(self._store.get(key, turn.now), turn.now)
        seen = stands.version if stands else 0
        if not self.cluster.joined:
            done(turn, Written(Status.BUSY, 0, existed=False))
        elif condition is None or condition == seen:
            self._writes.write(turn, key, record, self._quorum, done)
        else:
            done(turn, Written(Status.CONFLICT, seen, existed=False))

    monkeypatch.setattr(Coordinator, "put", decide)
    assert found(200, "fixed")


def test_a_decided_write_under_a_new_version_is_found(monkeypatch: Patch):
    """What a replica refused after the decision gets a new version, and goes to all."""
    made, finish = Coordinator.__init__, Conditions._finish

    def make(self: Coordinator, **parts: Any) -> None:
        made(self, **parts)
        self._conditions.anew = lambda turn, job: self._writes.write(  # type: ignore[attr-defined]
            turn, job.key, job.record._replace(version=0), job.quorum, job.done[0]
        )

    def end(self: Any, turn: Any, job: Any, status: Status, version: int = 0) -> None:
        if status is Status.UNCONFIRMED and job.decided and job.done:
            self.anew(turn, job)
            job.done = []
            self._next(turn, job)
        else:
            finish(self, turn, job, status, version)

    monkeypatch.setattr(Coordinator, "__init__", make)
    monkeypatch.setattr(Conditions, "_finish", end)
    assert found(10, "fixed", seed=2080)


class _ClaimsNothing(Recent):
    def claim(self, *_: Any, **__: Any) -> int:
        return 0


def test_two_writes_of_one_version_are_found(monkeypatch: Patch):
    def next_one(self: Any, least: int) -> int:
        self._last = max(self._now(), self._last + 1, least)
        return int(self._last)

    monkeypatch.setattr("kdht.client._clock.WriteClock.next", next_one)
    monkeypatch.setattr(coordinator, "Recent", _ClaimsNothing)
    assert found(100, "fixed")


def test_refusals_of_possibly_done_writes_are_found(monkeypatch: Patch):
    """BUSY or Conflict, though an earlier try was lost or unconfirmed."""
    monkeypatch.setattr(WriteExchange, "_is_in_doubt", False)
    assert found(300, "fixed")


def test_refusals_that_forget_lost_tries_are_found(monkeypatch: Patch):
    """Only where all tries are used up: the last refusal, BUSY, is the write's outcome. Its first try stands on a disk."""

    def last_wins(self: WriteExchange) -> RequestError:
        return Exchange._failure(self)

    monkeypatch.setattr(WriteExchange, "_failure", last_wins)
    played = found(10, "refusing", seed=10)
    assert played is not None
    assert {violation.promise for violation in played.violations} >= {"refused", "linearizable"}
    assert any("busy" in violation.what for violation in played.violations)


def test_a_node_that_never_returns_is_found(monkeypatch: Patch):
    def endless(self: Any, now: float) -> None:
        while True:
            pass

    monkeypatch.setattr("histories.virtual.play.CPU_SECONDS", 0.2)
    monkeypatch.setattr("kdht.node.repair.missed.Missed._look", endless)
    played = found(1)
    assert played is not None
    assert "no end after" in played.violations[0].what


def test_left_over_records_believed_at_once_are_found(monkeypatch: Patch):
    """A node beside the replicas answers while theirs are outstanding."""
    take = Read._take

    def believe(self: Read, reply: Any, cookie: int, index: int, now: float) -> None:
        if reply.status is Status.NOT_RESPONSIBLE and len(reply.body) >= RECORD_LEN:
            self._conclude(reply._replace(status=Status.OK), index, now)
        else:
            take(self, reply, cookie, index, now)

    monkeypatch.setattr(Read, "_take", believe)
    assert found(10, "sessions", seed=2215)


def test_tries_without_a_wait_after_old_answers_are_found(monkeypatch: Patch):
    """They are used up within milliseconds, and the old record is the answer."""

    def keep(self: Read, reply: Any, index: int, now: float) -> None:
        self._old = reply
        if self._is_last(index):
            self._try_next(now)

    def give_in(self: Read) -> None:
        if self._old is None:
            Exchange._fail(self)
        else:
            self.answer = self._old

    monkeypatch.setattr(Read, "_keep_old", keep)
    monkeypatch.setattr(Read, "_fail", give_in)
    assert found(30, "sessions", seed=2000)


def test_old_tombstones_believed_after_an_own_write_are_found(monkeypatch: Patch):
    """Versions are looked at for OK only."""
    take = Versions.take

    def ok_only(self: Versions, key: bytes, answer: Any, now: float) -> bool:
        return answer.status is Status.NOT_FOUND or take(self, key, answer, now)

    monkeypatch.setattr(Versions, "take", ok_only)
    assert found(20, "sessions", seed=2000)


def test_a_forgotten_own_deletion_is_found(monkeypatch: Patch):
    monkeypatch.setattr(Versions, "gone", lambda self, key, version: None)
    assert found(20, "sessions", seed=2120)


def test_a_node_back_from_being_cut_off_that_still_counts_is_found(monkeypatch: Patch):
    """It never notices, and makes a majority with another one that lacks what was written meanwhile."""
    monkeypatch.setattr(CutOff, "start", lambda self, now: None)
    assert found(10, "cut off", seed=2000)


def test_newcomers_that_take_each_others_word_are_found(monkeypatch: Patch):
    """A range counts as caught up once it was compared with today's replicas, be they all new."""

    def judge(self: CaughtUp, kept: KeptRange) -> _Judged:
        part = kept.range.start, kept.range.stop

        def is_equal(id: bytes) -> bool:
            peer = self._peers.get(id)
            return peer is not None and (peer.silent or peer.equal.covers(part))

        assert self._view is not None
        order = self._view.order(kept.range)
        waiting = [id for id in order if id in kept.replicas and not is_equal(id)]
        return _Judged(waiting, not waiting, 1)

    monkeypatch.setattr(CaughtUp, "_judge", judge)
    assert found(30, "together", seed=2060)


def test_reads_that_count_joiners_are_found(monkeypatch: Patch):
    """Two of them that lack a record hide it from a quorum read."""
    take = ReadJob.take

    def count(self: ReadJob, where: Where, record: StoredRecord | None, *, caught_up: bool) -> None:
        take(self, where, record, caught_up=True)

    monkeypatch.setattr(ReadJob, "take", count)
    assert found(10, "together", seed=2010)


# --- The parts ----------------------------------------------------------------------------


def test_a_failing_schedule_is_shrunk():
    schedule = draw(3)
    bad = Fault(1.0, 2.0, "kill", (1,))
    wanted = Action(1, 0.5, "put", "register-0")
    schedule = replace(schedule, faults=(*schedule.faults, bad), actions=(*schedule.actions, wanted))

    def fails(candidate: Schedule) -> bool:
        return bad in candidate.faults and wanted in candidate.actions

    small = shrink(schedule, frozenset(), fails)
    assert small.faults == (bad,)
    assert small.actions == (wanted,)
    assert not any(small.skews.values())
    assert not any(small.client_skews)
    assert "1.000 until 2.000 kill n1" in str(small)


@pytest.mark.parametrize("wanted", [(), (0,), (3, 4), (0, 99), (17, 50, 51, 98)])
def test_shrinking_finds_a_minimal_set(wanted: tuple[int, ...]):
    assert fewest(range(100), lambda kept: set(wanted) <= set(kept)) == list(wanted)


def test_a_paused_process_runs_due_timers_later():
    class Network:
        def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> None:
            callback(*arguments)

    done: list[int] = []
    process = Process(Network())  # type: ignore[arg-type]
    process.pause()
    process.call_at(1.0, done.append, 1)
    process.call_at(2.0, done.append, 2)
    assert not done
    process.resume()
    assert done == [1, 2]
    process.pause()
    process.call_at(3.0, done.append, 3)
    process.kill()
    process.resume()
    process.call_at(4.0, done.append, 4)
    assert done == [1, 2]


def test_a_sync_takes_time_and_unsynced_writes_may_be_lost():
    key, record = bytes(20), StoredRecord(1, 0, 0, b"value")
    outcomes = set()
    for seed in range(20):
        store, told = CrashStore(), []
        writer = DiskWriter(store, lambda key, record: None, lambda seconds, callback: None, Random(seed))
        assert writer.submit([StoreWrite(key, record)], 0.0, told.append)
        assert store.get(key, 0.0) is None
        writer.crash()
        assert not told
        outcomes.add(store.get(key, 0.0))
    assert outcomes == {None, record}


def test_an_unsynced_drop_may_be_undone_by_a_crash():
    key, record = bytes(20), StoredRecord(1, 0, 0, b"value")
    outcomes = set()
    for seed in range(20):
        store = CrashStore()
        store.apply([StoreWrite(key, record)], 0.0)
        assert store.drop([(key, 1)]) == 1
        store.crash(Random(seed))
        outcomes.add(store.get(key, 0.0))
    assert outcomes == {None, record}


FAILED_ONCE = {
    # All tries of a conditional write are BUSY. Seconds later a node that no longer owns the key passes a copy of one on.
    "a late copy": 170002337,
    # Two clients put one key in the same microsecond, and a STORE is lost.
    "one microsecond": 170003806,
    # A node is killed again before it hears another one. It must still know that it is not the whole cluster.
    "killed twice": 170009806,
    "killed twice by conditions": 170013492,
    "killed twice, and an older value": 170022528,
}


@pytest.mark.parametrize("seed", FAILED_ONCE.values(), ids=FAILED_ONCE)
def test_schedules_that_failed_once_keep_every_promise(seed: int):
    assert play(draw(seed)).violations == ()


def test_a_write_that_was_refused_for_now_is_in_doubt_where_copies_come_late():
    outcomes = {operation.outcome for operation in play(draw(FAILED_ONCE["a late copy"])).history}
    assert "unknown" in outcomes
    assert "refused" not in outcomes
