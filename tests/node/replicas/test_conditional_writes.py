"""Conditional writes: decided by promises of a majority, at whatever replica they end."""

from collections import Counter
from random import Random

import pytest
from replica_cluster import Cluster, key_of
from replica_steps import cut, far, plant, seq_of

from kdht.datapath.memory import Event
from kdht.node.replicas import Policy
from kdht.storage import Promise, StoredRecord, Write
from kdht.wire import OFFSET, Record, pack_write, parse
from kdht.wire._shared import TRY_BITS, Op, Status

OP = OFFSET["op"]


def cas(
    cluster: Cluster, version: int, condition: int, value: bytes = b"", op: Op = Op.PUT, **how: object
) -> tuple[Status, int] | None:
    """The status and the version of the answer."""
    reply = cluster.ask(op, "a", pack_write(Record(version, value=value), condition), **how)  # type: ignore[arg-type]
    if reply is None:
        return None
    return reply.status, Record.parse(reply.body).version if reply.body else 0


def promises(cluster: Cluster) -> int:
    return sum(len(pledges) for m in cluster.members for pledges in m.store._promised.values())


def test_a_conditional_write_reaches_all_replicas_and_leaves_no_promise():
    cluster = Cluster(8)
    version = seq_of(cluster)
    assert cas(cluster, version, 0, b"one") == (Status.OK, version)
    cluster.network.run(cluster.network.now + 1)
    assert [m.has("a") for m in cluster.replicas("a")] == [StoredRecord(version, 0, 0, b"one")] * 3
    assert cas(cluster, version + 1, version, b"two") == (Status.OK, version + 1)
    assert cas(cluster, version + 2, version, b"three") == (Status.CONFLICT, version + 1)
    cluster.network.run(cluster.network.now + 1)
    assert promises(cluster) == 0


@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_every_coordinator_checks_a_condition_at_a_majority(attempt):
    """Only one replica of the others' majority knows the newest; the coordinator may be the one that does not."""
    for knowing in ((0, 1), (0, 2), (1, 2)):
        cluster = Cluster(8)
        replicas = cluster.replicas("a")
        old, new = seq_of(cluster, -2), seq_of(cluster, -1)
        for number, member in enumerate(replicas):
            plant(member, old)
            if number in knowing:
                plant(member, new)
        status = cas(cluster, seq_of(cluster), old, b"x", via=far(cluster), attempt=attempt)
        assert status == (Status.CONFLICT, new)
        status = cas(cluster, seq_of(cluster), new, b"x", via=far(cluster), attempt=attempt)
        assert status == (Status.OK, Record.parse(cluster_value(cluster)).version)


def cluster_value(cluster: Cluster) -> bytes:
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    return reply.body


def test_a_conditional_write_without_a_majority_changes_nothing():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    cut(cluster, owner, second)
    cut(cluster, owner, third)
    assert cas(cluster, seq_of(cluster), 0, b"x") == (Status.BUSY, 0)
    assert not any(m.has("a") for m in cluster.members)
    cluster.network.run(cluster.network.now + 5)
    assert promises(cluster) == 0


def test_two_writes_under_one_condition_never_both_succeed():
    """Two tries of two clients, at two coordinators, under loss: attempt 1 is decided at the second replica
    while the owner lives."""
    succeeded: Counter[int] = Counter()
    for seed in range(60):
        cluster = Cluster(8, seed=seed, loss=0.2)
        version = seq_of(cluster)
        for number in range(4):
            body = pack_write(Record(version + number, value=b"%d" % number), 0)
            cluster.send(
                Op.PUT, "a", body, via=far(cluster), attempt=number % 3, request_id=(number + 1) << TRY_BITS
            )
            if seed % 2:
                cluster.network.run(cluster.network.now + 0.003)
        cluster.network.run(cluster.network.now + 4)
        done = {
            reply.request_id
            for reply in map(parse, (each.data for each in cluster.client.take()))
            if reply.status is Status.OK
        }
        assert len(done) <= 1, seed
        succeeded[len(done)] += 1
    assert succeeded[1] > 20


def test_counters_lose_nothing_under_loss():
    """Every client reads, adds one where that version stands, and goes on to the next node when it hears nothing."""
    for seed in range(4):
        cluster = Cluster(5, seed=seed, loss=0.15)
        rng = Random(seed)
        added = unsure = 0
        for _ in range(60):
            read = cluster.ask(Op.GET, "a", bytes(1120), via=far(cluster), attempt=rng.randrange(3), wait=0.5)
            if read is None or read.status not in (Status.OK, Status.NOT_FOUND):
                continue
            found = Record.parse(read.body) if read.body else Record(value=b"0")
            version = max(seq_of(cluster), found.version + 1)
            value = b"%d" % (int(found.value) + 1)
            told = cas(
                cluster, version, found.version, value, via=far(cluster), attempt=rng.randrange(3), wait=2.5
            )
            added += told is not None and told[0] is Status.OK
            unsure += told is None or told[0] is Status.UNCONFIRMED
        cluster.network.loss = 0.0
        cluster.network.run(cluster.network.now + 2)
        count = int(cluster.get("a", Op.QUORUM_GET) or b"0")
        assert added <= count <= added + unsure
        assert added > 5


def test_a_second_try_elsewhere_finds_the_write_done():
    cluster = Cluster(8)
    version = seq_of(cluster)
    for attempt in (0, 1, 2, 0):
        assert cas(cluster, version, 0, b"one", via=far(cluster), attempt=attempt) == (Status.OK, version)
    assert {m.has("a").version for m in cluster.replicas("a")} == {version}


def test_tries_that_come_together_are_one_write():
    cluster = Cluster(8)
    owner = cluster.replicas("a")[0]
    body = pack_write(Record(seq_of(cluster), value=b"one"), 0)
    for number in range(4):
        cluster.send(Op.PUT, "a", body, request_id=(7 << TRY_BITS) + number)
    cluster.network.run(cluster.network.now + 1)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.OK] * 4
    assert owner.coordinator.counters["writes"] == 1


def test_writes_of_one_key_wait_for_each_other():
    cluster = Cluster(8)
    cluster.network.delay = (0.001, 0.001)
    version = seq_of(cluster)
    for number in range(5):
        body = pack_write(
            Record(version + number, value=b"%d" % number), version + number - 1 if number else 0
        )
        cluster.send(Op.PUT, "a", body, request_id=(number + 1) << TRY_BITS)
    cluster.network.run(cluster.network.now + 2)
    replies = sorted((parse(each.data) for each in cluster.client.take()), key=lambda reply: reply.request_id)
    assert [reply.status for reply in replies] == [Status.OK] * 5
    assert cluster.get("a", Op.QUORUM_GET) == b"4"


def test_too_many_writes_of_one_key_are_refused():
    cluster = Cluster(8)
    version = seq_of(cluster)
    for number in range(100):
        body = pack_write(Record(version + number, value=b"%d" % number), 0)
        cluster.send(Op.PUT, "a", body, request_id=(number + 1) << TRY_BITS)
    cluster.network.run(cluster.network.now + 5)
    statuses = Counter(parse(each.data).status for each in cluster.client.take())
    assert statuses[Status.OK] == 1
    assert statuses[Status.BUSY] >= 36
    assert sum(statuses.values()) == 100


def test_a_version_below_a_promise_is_refused_with_the_promise():
    cluster = Cluster(8)
    promised = seq_of(cluster, 5)
    for member in cluster.replicas("a")[1:]:
        member.store.apply([Promise(key_of("a"), promised, 1)], member.now)
    assert cas(cluster, seq_of(cluster), 0, b"x") == (Status.BUSY, promised)
    assert cas(cluster, promised + 1, 0, b"x") == (Status.OK, promised + 1)


def test_a_write_without_a_version_is_placed_above_promises():
    cluster = Cluster(8)
    promised = seq_of(cluster, 5)
    for member in cluster.replicas("a")[1:]:
        member.store.apply([Promise(key_of("a"), promised, 1)], member.now)
    assert cas(cluster, 0, 0, b"x") == (Status.OK, promised + 1)


def test_a_lower_version_is_refused_with_the_stored_one():
    """The client's clock is behind the one that wrote last."""
    cluster = Cluster(8)
    stands = seq_of(cluster, 5)
    for member in cluster.replicas("a"):
        plant(member, stands)
    assert cas(cluster, seq_of(cluster), stands, b"x") == (Status.BAD_VERSION, stands)
    assert cas(cluster, stands + 1, stands, b"x") == (Status.OK, stands + 1)


def test_replicas_behind_promise_nothing():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for member in (owner, second):
        member.repair.caught_up = lambda key: False
    assert cas(cluster, seq_of(cluster), 0, b"x") == (Status.BUSY, 0)
    assert not any(m.has("a") for m in cluster.members)
    second.repair.caught_up = lambda key: True
    version = seq_of(cluster)
    assert cas(cluster, version, 0, b"x") == (Status.OK, version)
    cluster.network.run(cluster.network.now + 1)
    assert [m.has("a").version for m in (owner, second, third)] == [version] * 3, "the owner keeps it too"


def test_stand_ins_neither_promise_nor_confirm():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    cluster.kill(second, third)
    assert cas(cluster, seq_of(cluster), 0, b"x") == (Status.BUSY, 0)
    stranger = next(m for m in cluster.members if m not in (owner, second, third))
    assert sum(m.coordinator.counters["promises_given"] for m in cluster.members if m is not stranger) == 0


def test_a_policy_of_all_acks_holds_for_conditional_writes():
    cluster = Cluster(8, policy=Policy(replicas=3, acks=3))
    version = seq_of(cluster)
    assert cas(cluster, version, 0, b"x") == (Status.OK, version)
    cluster.kill(cluster.replicas("a")[2])
    assert cas(cluster, version + 1, version, b"y") == (Status.UNCONFIRMED, 0)


def test_a_decided_but_unconfirmed_write_blocks_older_ones():
    """All STOREs but the owner's own are lost: an older version, of which the promise said nothing, must not become a majority's."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    older = seq_of(cluster, -1)
    plant(third, older, b"older")
    cut(cluster, owner, third)

    def lose_stores(event: Event) -> None:
        if (
            event.what == "delivered"
            and event.data[OP] == Op.PROMISE
            and event.source == second.contact.address
        ):
            cut(cluster, owner, second)

    cluster.network.observer = lose_stores
    assert cas(cluster, seq_of(cluster), 0, b"x") == (Status.UNCONFIRMED, 0)
    cluster.network.observer = None
    for op in (Op.QUORUM_GET,):
        reply = cluster.ask(op, "a", bytes(1120), via=second, attempt=0, wait=3.0)
        assert reply is None or reply.status is Status.UNCONFIRMED or Record.parse(reply.body).value == b"x"
    cut(cluster, owner, second, 0.0)
    assert cluster.get("a", Op.QUORUM_GET) == b"x"


def test_a_late_promise_is_released():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    stands = seq_of(cluster, -1)
    for member in (owner, second, third):
        plant(member, stands)
    cluster.network.delay = (0.0, 0.4)
    for number in range(6):
        cas(cluster, seq_of(cluster), stands + 5 + number, b"x")
    cluster.network.run(cluster.network.now + 10)
    assert promises(cluster) == 0


def test_a_deletion_under_a_condition():
    cluster = Cluster(8)
    version = seq_of(cluster)
    cas(cluster, version, 0, b"one")
    assert cas(cluster, version + 1, version + 5, op=Op.DELETE) == (Status.CONFLICT, version)
    for _ in range(2):
        assert cas(cluster, version + 1, version, op=Op.DELETE) == (Status.OK, 0)
    assert cluster.get("a", Op.QUORUM_GET) is None
    assert cas(cluster, version + 2, version, op=Op.DELETE) == (Status.CONFLICT, 0)
    assert cas(cluster, version + 2, 0, b"two") == (Status.OK, version + 2)


def test_a_conditional_version_far_from_the_clock_is_refused_at_once():
    cluster = Cluster(8)
    told = cas(cluster, seq_of(cluster, 100), 0, b"x")
    assert told is not None
    assert told[0] is Status.BAD_VERSION
    assert sum(m.coordinator.counters["promises_given"] for m in cluster.members) == 0


def test_a_cluster_of_one_decides_alone():
    cluster = Cluster(1)
    version = seq_of(cluster)
    assert cas(cluster, version, 0, b"x") == (Status.OK, version)
    assert cas(cluster, version + 1, 0, b"y") == (Status.CONFLICT, version)


@pytest.mark.parametrize("catching_up", [0, 1, 2], ids=["owner", "second", "third"])
def test_a_replica_behind_promises_nothing_but_gets_the_write(catching_up):
    """It may have compared its records already: what came since then it would miss, and soon be heard again."""
    cluster = Cluster(8)
    replicas = cluster.replicas("a")
    replicas[catching_up].repair.caught_up = lambda key: False
    version = seq_of(cluster)
    assert cas(cluster, version, 0, b"one") == (Status.OK, version)
    cluster.network.run(cluster.network.now + 1)
    assert [m.has("a") for m in replicas] == [StoredRecord(version, 0, 0, b"one")] * 3


def test_a_quorum_read_never_returns_less_than_a_decided_write():
    """The third replica has what nobody acknowledged; a write under the version before it is decided while a read brings it to the second."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    before, unseen, decided = seq_of(cluster, -3), seq_of(cluster, -2), seq_of(cluster, -1)
    for member in (owner, second, third):
        plant(member, before, b"before")
    plant(third, unseen, b"unseen")
    for member in (owner, second):
        member.store.apply([Promise(key_of("a"), decided, 1)], member.now)
    cut(cluster, owner, third)

    def overtake(event: Event) -> None:
        is_answer = event.data[OP] == Op.FETCH and event.source == second.contact.address
        if is_answer and event.what == "delivered" and second.has("a").version == before:
            for member in (owner, second):
                write = Write(key_of("a"), StoredRecord(decided, 0, 0, b"decided"), 1)
                assert member.store.apply([write], member.now)[0].accepted

    cluster.network.observer = overtake
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120), via=far(cluster), attempt=2)
    assert reply is not None
    assert reply.status is Status.OK
    assert Record.parse(reply.body) == Record(decided, value=b"decided")
    assert third.has("a").value == b"decided"


@pytest.mark.parametrize("late", [(Write,), (Promise, Write)], ids=["after-a-promise", "without-a-promise"])
def test_no_client_hears_of_a_write_that_the_owner_has_not_stored(late, monkeypatch):
    """The owner answers GETs from its own store: what was acknowledged must be there, however slow its disk is."""
    cluster = Cluster(8)
    owner = cluster.replicas("a")[0]
    waiting: list[tuple[object, ...]] = []
    submit = owner.writer.submit

    def submit_late(wishes, now, done):
        if any(isinstance(wish, late) for wish in wishes):
            waiting.append((wishes, now, done))
            return True
        return submit(wishes, now, done)

    monkeypatch.setattr(owner.writer, "submit", submit_late)
    version = seq_of(cluster)
    cluster.send(Op.PUT, "a", pack_write(Record(version, value=b"x"), 0), via=far(cluster))
    cluster.network.run(cluster.network.now + 0.1)
    early = [parse(each.data).status for each in cluster.client.take()]
    assert early == [Status.OK] * owner_has(owner)
    while waiting:
        submit(*waiting.pop(0))
        cluster.network.run(cluster.network.now + 0.1)
    assert owner_has(owner)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.OK] * (not early)


def owner_has(owner) -> bool:
    return owner.has("a") is not None
