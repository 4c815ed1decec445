"""Writes that have a version of their own: what a try may do, what refuses it, and what a read writes back."""

import pytest
from replica_cluster import Cluster, key_of
from replica_steps import cut, far, fill, plant, seq_of, taken

from kdht.datapath.memory import Event
from kdht.node.replicas import Policy
from kdht.storage import Promise
from kdht.storage.room import Pressure
from kdht.wire import OFFSET, Message, Record, pack_write, parse
from kdht.wire._shared import TRY_BITS, Op, Status

TRY = 5 << TRY_BITS
"""A request ID: the first try of a write."""


def put(cluster: Cluster, version: int, value: bytes, **how: object) -> Message:
    reply = cluster.ask(Op.PUT, "a", Record(version, value=value).pack(), **how)  # type: ignore[arg-type]
    assert reply is not None
    return reply


def values(cluster: Cluster) -> list[bytes | None]:
    return [record and record.value for record in (m.has("a") for m in cluster.replicas("a"))]


# --- Reads that bring what they found to others


@pytest.mark.parametrize("op", [Op.QUORUM_GET, Op.GET])
def test_a_write_back_never_replaces_a_newer_record(op):
    """The replica's answer to FETCH was older than what it has when the write-back comes."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(owner, 7, b"old")
    owner.repair.caught_up = lambda key: False

    def overtaken(event: Event) -> None:
        if event.data[OFFSET["op"]] == Op.STORE and event.what == "delivered":
            for member in (second, third):
                if not member.has("a"):
                    plant(member, 9, b"acknowledged meanwhile")

    cluster.network.observer = overtaken
    cluster.ask(op, "a", bytes(1120))
    cluster.network.observer = None
    cluster.network.run(cluster.network.now + 3)
    assert not any(m.has("a") and m.has("a").version > 9 for m in cluster.members)
    assert [m.has("a").value for m in (second, third)] == [b"acknowledged meanwhile"] * 2


def test_quorum_reads_under_loss_never_undo_an_acknowledged_write():
    """A counter that one client keeps, a third of the reads by a quorum, through nodes by turns."""
    cluster = Cluster(5, loss=0.1, seed=11)
    last = 0
    for number in range(150):
        while True:
            last = max(last + 1, seq_of(cluster))
            reply = cluster.ask(Op.PUT, "a", Record(last, value=b"%d" % number).pack(), wait=0.7)
            if reply is not None and reply.status is Status.OK:
                break
        for attempt in (0, 1):
            read = cluster.ask(Op.QUORUM_GET, "a", bytes(1120), via=far(cluster), attempt=attempt, wait=0.7)
            if read is not None and read.status is Status.OK:
                assert Record.parse(read.body).value == b"%d" % number


def test_a_quorum_read_waits_for_its_own_write_back():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(second, 7, b"new")
    owner.store.apply([Promise(key_of("a"), 9, 1)], owner.now)
    cluster.kill(third)
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED, "a promise keeps it from a majority"


# --- Refusals


def test_a_write_refused_by_all_learns_the_stored_version():
    cluster = Cluster(8)
    stands = seq_of(cluster, 1)
    for member in cluster.replicas("a"):
        plant(member, stands, b"newer")
    reply = put(cluster, seq_of(cluster), b"older")
    assert (reply.status, Record.parse(reply.body)) == (Status.BAD_VERSION, Record(stands))
    cluster.network.run(cluster.network.now + 3)
    assert values(cluster) == [b"newer"] * 3
    assert put(cluster, stands + 1, b"older").status is Status.OK
    assert values(cluster) == [b"older"] * 3


def test_a_write_refused_by_a_majority_only_is_unconfirmed():
    """Those that refuse it may have had it before, from a quorum read: then it was told of, and overwritten."""
    cluster = Cluster(8)
    stands = seq_of(cluster, 1)
    for member in cluster.replicas("a")[1:]:
        plant(member, stands, b"newer")
    assert put(cluster, seq_of(cluster), b"older").status is Status.UNCONFIRMED
    cluster.network.run(cluster.network.now + 3)
    assert values(cluster)[1:] == [b"newer"] * 2


def test_a_write_refused_by_one_replica_is_confirmed_by_the_others():
    cluster = Cluster(8)
    replicas = cluster.replicas("a")
    for refusing in replicas:
        cluster = Cluster(8)
        stands = seq_of(cluster, 1)
        plant(cluster.replicas("a")[replicas.index(refusing)], stands, b"newer")
        assert put(cluster, seq_of(cluster), b"older").status is Status.OK
        assert sorted(values(cluster)) == [b"newer", b"older", b"older"]
        assert cluster.get("a", Op.QUORUM_GET) in (b"newer", b"older")


def test_a_stand_in_does_not_outvote_a_newer_replica():
    """The other replica that has it is silent, so that nobody knows whether it was acknowledged."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for member in (second, third):
        plant(member, seq_of(cluster, 1), b"acknowledged")
    cut(cluster, owner, third)
    assert put(cluster, seq_of(cluster), b"older").status is Status.UNCONFIRMED


def test_a_newer_replica_still_acknowledges_an_older_write():
    cluster = Cluster(8, policy=Policy(replicas=3, acks=3))
    plant(cluster.replicas("a")[2], seq_of(cluster, 1), b"newer")
    assert put(cluster, seq_of(cluster), b"older").status is Status.OK


def test_a_write_gets_a_new_version_only_if_no_node_took_the_first():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    stands = seq_of(cluster, 5)
    plant(third, stands, b"newer")
    assert cluster.put("a", b"value").version < stands
    for member in (owner, second, third):
        plant(member, stands + 1000, b"newer")
    assert cluster.put("a", b"value").version > stands + 1000
    assert owner.coordinator.counters["write_rounds"] == 1


def test_a_plain_write_below_a_promise_is_refused_with_the_promise():
    cluster = Cluster(8)
    promised = seq_of(cluster, 1)
    for member in cluster.replicas("a"):
        member.store.apply([Promise(key_of("a"), promised, 1)], member.now)
    reply = put(cluster, seq_of(cluster), b"value")
    # The promise may be given back. A copy of the request could then be done at another node.
    assert (reply.status, Record.parse(reply.body).version) == (Status.BUSY, promised)
    assert put(cluster, promised + 1, b"value").status is Status.OK


def test_a_greater_version_that_was_refused_itself_is_not_in_the_way():
    cluster = Cluster(8)
    first, second = seq_of(cluster), seq_of(cluster, 1)
    body = pack_write(Record(second, value=b"conditional"), condition=7)
    assert cluster.ask(Op.PUT, "a", body).status is Status.CONFLICT
    assert put(cluster, first, b"value").status is Status.OK


@pytest.mark.parametrize("seconds", [-61, 61, 3600])
def test_a_version_far_from_the_clock_is_refused_with_the_time(seconds):
    cluster = Cluster(8)
    reply = put(cluster, seq_of(cluster, seconds), b"value")
    assert reply.status is Status.BAD_VERSION
    assert abs(Record.parse(reply.body).version - seq_of(cluster)) < 1_000_000
    assert put(cluster, Record.parse(reply.body).version + 1, b"value").status is Status.OK


def test_a_record_from_a_fast_clock_can_be_overwritten():
    cluster = Cluster(8)
    stands = seq_of(cluster, 110)
    for member in cluster.replicas("a"):
        plant(member, stands, b"from the future")
    reply = put(cluster, seq_of(cluster), b"value")
    assert (reply.status, Record.parse(reply.body).version) == (Status.BAD_VERSION, stands)
    assert put(cluster, stands + 1, b"value").status is Status.OK


# --- The same write again


@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_a_late_try_never_undoes_a_newer_write(attempt):
    cluster = Cluster(8)
    first = seq_of(cluster)
    assert put(cluster, first, b"first").status is Status.OK
    for number in range(3):
        assert put(cluster, first + 1 + number, b"%d" % number).status is Status.OK
    cluster.network.run(cluster.network.now + 2)
    late = put(cluster, first, b"first", via=far(cluster), attempt=attempt)
    assert late.status in (Status.OK, Status.BAD_VERSION)
    cluster.network.run(cluster.network.now + 2)
    assert values(cluster) == [b"2"] * 3


def test_a_retry_at_the_same_coordinator_is_confirmed_after_it_was_overwritten():
    cluster = Cluster(8)
    first = seq_of(cluster)
    put(cluster, first, b"first")
    put(cluster, first + 1, b"second")
    reply = put(cluster, first, b"first")
    assert (reply.status, Record.parse(reply.body).version) == (Status.OK, first)
    assert put(cluster, first, b"another's").status is Status.BAD_VERSION


def test_a_retry_elsewhere_makes_no_second_version():
    cluster = Cluster(8)
    version = seq_of(cluster)
    for attempt in (0, 1, 2, 1):
        reply = put(cluster, version, b"value", via=far(cluster), attempt=attempt)
        assert (reply.status, Record.parse(reply.body).version) == (Status.OK, version)
    assert {m.has("a").version for m in cluster.replicas("a")} == {version}


def test_a_retry_with_a_ttl_makes_no_second_version():
    cluster = Cluster(8)
    version = seq_of(cluster)
    body = Record(version, 30, 0, b"value").pack()
    for attempt in (0, 1, 2):
        cluster.network.run(cluster.network.now + 1.5)
        reply = cluster.ask(Op.PUT, "a", body, via=far(cluster), attempt=attempt)
        assert reply is not None
        assert reply.status is Status.OK
    cluster.network.run(cluster.network.now + 1)
    assert {m.has("a") for m in cluster.replicas("a")} == {cluster.replicas("a")[2].has("a")}


@pytest.mark.parametrize("attempt", [0, 1, 2])
@pytest.mark.parametrize("existed", [True, False])
def test_a_deletion_is_answered_the_same_in_every_try(attempt, existed):
    cluster = Cluster(8)
    if existed:
        cluster.put("a", b"value")
        cluster.network.run(cluster.network.now + 1)
    body = Record(seq_of(cluster, 1)).pack()
    first = cluster.ask(Op.DELETE, "a", body)
    again = cluster.ask(Op.DELETE, "a", body, via=far(cluster), attempt=attempt)
    assert first is not None
    assert again is not None
    assert first.status is (Status.OK if existed else Status.NOT_FOUND)
    assert again.status is first.status
    assert {m.has("a").version for m in cluster.replicas("a")} == {Record.parse(body).version}


def test_replicas_agree_on_two_writes_of_one_version():
    cluster = Cluster(8)
    version = seq_of(cluster)
    for number in range(3):
        cluster.send(
            Op.PUT, "a", Record(version, value=b"%d" % number).pack(), via=far(cluster), attempt=number
        )
    cluster.network.run(cluster.network.now + 3)
    assert {parse(reply.data).status for reply in cluster.client.take()} <= {
        Status.OK,
        Status.BAD_VERSION,
        Status.UNCONFIRMED,
    }
    assert len(set(values(cluster))) == 1


# --- A doubled datagram


def answers_to(cluster: Cluster, request_id: int) -> list[Status]:
    return [reply.status for reply in taken(cluster) if reply.request_id == request_id]


def test_a_copy_of_an_unconfirmed_try_is_not_refused():
    """To the client both are one try. A refusal would say that it changed nothing, and the client would write again above it."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    version = seq_of(cluster)
    body = Record(version, value=b"value").pack()
    for other in cluster.members:
        if other is not owner:
            cut(cluster, owner, other)
    request = cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 1.0)
    assert owner.has("a").version == version
    for member in (owner, second, third):
        plant(member, version + 5, b"newer")
    for other in cluster.members:
        if other is not owner:
            cut(cluster, owner, other, 0.0)
    cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 3.0)
    assert answers_to(cluster, request) == [Status.UNCONFIRMED] * 2
    again = cluster.send(Op.PUT, "a", body, request_id=TRY + 1)
    cluster.network.run(cluster.network.now + 3.0)
    assert answers_to(cluster, again) == [Status.BAD_VERSION], "another try says what it did itself"


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "if_version"])
def test_copies_that_are_all_refused_are_told_so(conditional):
    cluster = Cluster(8)
    version = seq_of(cluster)
    for member in cluster.replicas("a"):
        plant(member, version + 5, b"newer")
    body = Record(version, value=b"value").pack()
    body = pack_write(Record(version, value=b"value"), 7) if conditional else body
    for _ in range(3):
        cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 3.0)
    cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 3.0)
    # The first answer of several copies may be less certain than it could be. The later ones are not.
    assert answers_to(cluster, TRY)[-1] is (Status.CONFLICT if conditional else Status.BAD_VERSION)


@pytest.mark.parametrize("status", [Status.TOO_FEW, Status.FULL])
@pytest.mark.parametrize("at", ["first", "last"])
def test_a_copy_of_a_refused_try_is_not_carried_out(status, at):
    """Whatever the reason was, and though it is gone."""
    cluster = Cluster(3)
    body = Record(seq_of(cluster), value=b"value").pack()
    living = [member.cluster.living for member in cluster.members]
    for member in cluster.members:
        if status is Status.TOO_FEW:
            member.cluster.living = 0
        else:
            fill(member, pressure=Pressure.CLIENTS if at == "first" else Pressure.MEMBERS)
            if at == "last":
                member.service._room.lets_in = lambda *_: True  # it had room a moment ago
    cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 2.0)
    for member, count in zip(cluster.members, living, strict=True):
        member.cluster.living = count
        fill(member, pressure=Pressure.NONE)
    cluster.send(Op.PUT, "a", body, request_id=TRY)
    cluster.network.run(cluster.network.now + 2.0)
    assert answers_to(cluster, TRY) == [status] * 2
    assert values(cluster) == [None] * 3
