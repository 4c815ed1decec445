"""Writes to all replicas, reads from several, conditions, watches: coordinators on a virtual network."""

import struct

import pytest
from replica_cluster import Cluster, Member, key_of

from kdht.datapath.base import Datagram
from kdht.datapath.memory import Event
from kdht.node.replicas import Policy
from kdht.node.replicas.holders import Holder
from kdht.storage import StoredRecord, Write
from kdht.wire import OFFSET, Message, Record, pack_write, parse
from kdht.wire._shared import TRY_BITS, Op, Reason, RecordFlag, Status


def conditional(version: int, value: bytes = b"") -> bytes:
    return pack_write(Record(value=value), version)


def plant(member: Member, name: str, version: int, value: bytes, flags: int = 0) -> None:
    (result,) = member.store.apply([Write(key_of(name), StoredRecord(version, 0, flags, value))], member.now)
    assert result.accepted


def far(cluster: Cluster) -> Member:
    """An entry node from which attempt n ends at replica n."""
    key = int.from_bytes(key_of("a"), "big")
    return max(cluster.members, key=lambda member: int.from_bytes(member.contact.id, "big") ^ key)


def test_a_write_reaches_exactly_the_replicas():
    cluster = Cluster(8)
    confirmed = cluster.put("a", b"value")
    cluster.network.run(cluster.network.now + 1)
    replicas = cluster.replicas("a")
    assert [m.has("a") for m in replicas] == [StoredRecord(confirmed.version, 0, 0, b"value")] * 3
    assert not any(m.has("a") for m in cluster.members if m not in replicas)
    assert cluster.get("a", via=cluster.members[0]) == b"value"


def test_a_write_needs_all_acks_of_its_policy():
    cluster = Cluster(8, policy=Policy(replicas=3, acks=3))
    owner, second, third = cluster.replicas("a")
    cluster.network.set_loss(owner.contact.address, third.contact.address, 1.0)
    for member in cluster.members:
        if member not in (owner, second):
            cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"x").pack())
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_a_stand_in_replaces_a_silent_replica_which_is_reported():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    cluster.network.set_loss(owner.contact.address, second.contact.address, 1.0)
    cluster.kill(third)
    assert cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=owner)
    fourth = cluster.replicas("a", [m for m in cluster.members if m not in (second, third)])[1]
    assert fourth.has("a") is not None
    assert sorted(owner.silent)[:2] == sorted([second.contact.address, third.contact.address])


def test_stand_ins_do_not_count_towards_a_majority():
    """The two that the coordinator does not reach may be heard by others: a quorum read would miss the write."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for replica in (second, third):
        cluster.network.set_loss(owner.contact.address, replica.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=owner)
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    assert sum(m.has("a") is not None for m in cluster.members) >= 2
    quorum = cluster.ask(Op.QUORUM_GET, "a", via=far(cluster), attempt=1)
    assert quorum is not None
    assert quorum.status is Status.NOT_FOUND


@pytest.mark.parametrize("caught_up", [True, False])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after the stand-ins have it"])
def test_the_node_after_a_closed_port_confirms_once_caught_up(late, caught_up):
    cluster = Cluster(8)
    for member in cluster.members:
        if caught_up:
            member.repair.holding = lambda key: True
    owner, second, third = cluster.replicas("a")
    cluster.kill(second, third)
    request = cluster.send(Op.PUT, "a", Record(value=b"value").pack(), via=owner)
    cluster.network.run(cluster.network.now + (0.9 if late else 0.1))
    assert not cluster.client.take()
    for replica in (second, third):
        owner.coordinator.unreachable(replica.contact.address, owner.now)
    cluster.network.run(cluster.network.now + 0.3)
    replies = [parse(each.data) for each in cluster.client.take()]
    status = Status.OK if caught_up else Status.UNCONFIRMED
    assert [(each.request_id, each.status) for each in replies] == [(request, status)]


def join(cluster: Cluster, count: int = 1) -> tuple[list[Member], list[Member]]:
    """The nodes closest to "a" have just come: nobody else knows them, and they have not caught up. Who kept it, too."""
    joiners = cluster.replicas("a")[:count]
    old = [member for member in cluster.members if member not in joiners]
    for member in old:
        member.know(old)
    for joiner in joiners:
        joiner.repair.caught_up = lambda key: False
        joiner.know([*old, joiner])
    kept = cluster.replicas("a", old)
    for member in kept:
        member.repair.holding = lambda key: True
    return joiners, kept


def test_an_unknown_joiner_does_not_count_towards_a_writes_majority():
    """Who kept the key before make a majority for a quorum read without it."""
    cluster = Cluster(8)
    (joiner,), (first, *others) = join(cluster)
    for member in others:
        cluster.network.set_loss(joiner.contact.address, member.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=joiner)
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    assert first.has("a") is not None
    assert joiner.coordinator.counters["confirmed_behind"] > 0
    cluster.network.set_loss(first.contact.address, others[0].contact.address, 1.0)
    assert cluster.get("a", Op.QUORUM_GET, via=others[1]) in (None, b"value")


@pytest.mark.parametrize("count", [1, 2, 3, 12], ids=lambda count: f"{count} joiners")
def test_former_replicas_confirm_in_place_of_joiners(count):
    cluster = Cluster(20)
    joiners, kept = join(cluster, count)
    cluster.network.set_loss(joiners[0].contact.address, kept[1].contact.address, 1.0)
    cluster.put("a", b"value", via=joiners[0])
    assert [member.has("a") is not None for member in kept] == [True, False, True]
    assert cluster.get("a", Op.QUORUM_GET, via=kept[1]) == b"value"


def test_a_silent_joiner_keeps_its_seat():
    """It may have compared its records before the write, and catch up without it."""
    cluster = Cluster(8)
    (joiner, silent), (first, *_) = join(cluster, 2)
    joiner.know(cluster.members)
    cluster.network.set_loss(joiner.contact.address, silent.contact.address, 1.0)
    cluster.network.set_loss(joiner.contact.address, first.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=joiner)
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_joiners_do_not_confirm_a_write_that_is_older_than_one_acknowledged():
    cluster = Cluster(8)
    joiners, kept = join(cluster, 2)
    for joiner in joiners:
        joiner.know(cluster.members)
    older = int(joiners[0].now * 1_000_000)
    for member in kept[:2]:
        plant(member, "a", older + 1, b"newer")
    cluster.network.set_loss(joiners[0].contact.address, kept[0].contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(older, value=b"older").pack(), via=joiners[0])
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_a_retried_write_is_confirmed_once_its_replicas_have_caught_up():
    """All were away at once: nobody has caught up on anything."""
    cluster = Cluster(8)
    body = Record(int(cluster.members[0].now * 1_000_000), value=b"value").pack()
    for member in cluster.members:
        member.repair.caught_up = lambda key: False
    request = cluster.send(Op.PUT, "a", body, request_id=1 << TRY_BITS)
    cluster.network.run(cluster.network.now + 2)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.UNCONFIRMED]
    for member in cluster.members:
        member.repair.caught_up = lambda key: True
    cluster.send(Op.PUT, "a", body, request_id=request + 1)
    cluster.network.run(cluster.network.now + 2)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.OK]


def test_a_coordinator_behind_does_not_count_itself():
    cluster = Cluster(8)
    owner, _, third = cluster.replicas("a")
    owner.repair.caught_up = lambda key: False
    cluster.put("a", b"value")
    cluster.network.set_loss(owner.contact.address, third.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"again").pack())
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


@pytest.mark.parametrize("caught_up", [True, False])
def test_a_node_alone_confirms_once_it_has_caught_up(caught_up):
    cluster = Cluster(1)
    cluster.members[0].repair.caught_up = lambda key: caught_up
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack())
    assert reply is not None
    assert reply.status is (Status.OK if caught_up else Status.UNCONFIRMED)


def test_a_quorum_read_writes_back_to_a_majority_of_caught_up_replicas():
    """That a joiner has it helps nobody who asks those that were there before."""
    cluster = Cluster(8)
    joiners, kept = join(cluster)
    joiner = joiners[0]
    joiner.know(cluster.members)
    for member in (joiner, kept[0]):
        plant(member, "a", 7, b"value")
    cluster.network.set_loss(joiner.contact.address, kept[2].contact.address, 1.0)
    assert cluster.get("a", Op.QUORUM_GET, via=joiner) == b"value"
    assert kept[1].has("a") is not None


@pytest.mark.parametrize("third_says", ["newer", "nothing"])
def test_a_write_is_refused_only_if_every_asked_replica_refused_it(third_says):
    """One has not caught up and has something newer, too; who kept the key before is asked in its place."""
    cluster = Cluster(8)
    joiners, kept = join(cluster)
    older = int(joiners[0].now * 1_000_000)
    for member in (*joiners, *kept):
        plant(member, "a", older + 1, b"newer")
    if third_says == "nothing":
        cluster.kill(kept[2])
    reply = cluster.ask(Op.PUT, "a", Record(older, value=b"older").pack(), via=joiners[0])
    assert reply is not None
    assert reply.status is (Status.BAD_VERSION if third_says == "newer" else Status.UNCONFIRMED)


def test_a_replica_that_missed_a_write_is_reported():
    cluster = Cluster(8)
    owner, _, third = cluster.replicas("a")
    missed = owner.repair.missed_keys
    cluster.put("a", b"value")
    cluster.network.run(cluster.network.now + 2)
    assert missed == []
    cluster.kill(third)
    cluster.put("a", b"again")
    cluster.network.run(cluster.network.now + 2)
    assert missed == [key_of("a")]


def test_all_replicas_are_asked_by_one_message_and_each_confirms_once():
    cluster = Cluster(6, policy=Policy(replicas=4, acks=4))
    owner, replica, *dead = cluster.replicas("key")
    stores, answers = [], []

    def note(event: Event) -> None:
        if event.data[OFFSET["op"]] == Op.STORE:
            (answers if event.source == replica.contact.address else stores).append(event)

    cluster.network.observer = note
    cluster.kill(*dead, *(m for m in cluster.members if m not in (owner, replica, *dead)))
    reply = cluster.send(Op.PUT, "key", Record(value=b"v").pack())
    cluster.network.run(cluster.network.now + 0.1)
    assert len({event.target for event in stores}) >= 3
    assert len({event.data for event in stores}) == 1
    (answer,) = {event.data for event in answers}
    again = Datagram(answer, replica.contact.address, owner.contact.address, Reason.CONTROL, 0)
    for _ in range(4):
        owner.coordinator.receive([again], owner.now)
    cluster.network.run(cluster.network.now + 3)
    replies = [parse(each.data) for each in cluster.client.take()]
    assert [(each.request_id, each.status) for each in replies] == [(reply, Status.UNCONFIRMED)]


def test_known_slow_replicas_get_more_time():
    """Else a cluster that is overloaded gets each STORE three times, and its stand-ins as well."""
    cluster = Cluster(8)
    owner = cluster.replicas("a")[0]
    cluster.put("a", b"fast")
    cluster.network.delay = (0.15, 0.2)
    overdue = []
    for number in range(12):
        before = owner.coordinator.counters["calls_overdue"]
        cluster.put("a", b"%d" % number)
        cluster.network.run(cluster.network.now + 3)
        overdue.append(owner.coordinator.counters["calls_overdue"] - before)
    assert overdue[0] > 0
    assert overdue[-3:] == [0, 0, 0]


def test_the_replica_where_a_retry_ends_coordinates_it():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    cluster.kill(owner)
    entry = next(m for m in cluster.members if m not in (owner, second, third))
    assert cluster.ask(Op.PUT, "a", Record(value=b"x").pack(), via=entry, wait=0.5) is None
    cluster.put("a", b"value", via=entry, attempt=1)
    assert cluster.get("a", via=entry, attempt=1) == b"value"
    assert third.has("a") is not None


def test_a_node_that_is_no_replica_refuses_a_write():
    cluster = Cluster(8)
    stranger = max(
        cluster.members,
        key=lambda m: int.from_bytes(m.contact.id, "big") ^ int.from_bytes(key_of("a"), "big"),
    )
    reply = cluster.ask(Op.PUT, "a", Record(value=b"x").pack(), via=stranger, attempt=200)
    assert reply is not None
    assert reply.status is Status.NOT_RESPONSIBLE


def test_too_few_nodes_leave_a_write_unconfirmed():
    cluster = Cluster(3)
    _owner, *others = cluster.replicas("a")
    cluster.kill(*others)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"x").pack())
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_a_cluster_of_one_confirms_alone():
    cluster = Cluster(1)
    cluster.put("a", b"value")
    assert cluster.get("a") == b"value"
    assert cluster.get("b") is None


@pytest.mark.parametrize("skew", [10.0, -10.0])
def test_the_later_write_wins_under_clock_skew(skew):
    """The first write by a node whose clock is 10 s ahead, the next by one that is behind, and the other way round."""
    for name in (f"key {n}" for n in range(20)):
        cluster = Cluster(5, skews=[skew * (n % 2) for n in range(5)])
        owner = cluster.replicas(name)[0]
        first = cluster.put(name, b"first")
        cluster.network.run(cluster.network.now + 0.5)
        cluster.kill(owner)
        entry = next(m for m in cluster.members if m is not owner)
        later = cluster.put(name, b"later", via=entry, attempt=1)
        assert later.version > first.version
        cluster.network.run(cluster.network.now + 1)
        assert cluster.get(name, Op.QUORUM_GET, via=entry, attempt=1) == b"later"


def test_a_greater_version_at_a_replica_moves_the_coordinators_clock():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    ahead = int((owner.now + 3600) * 1_000_000)
    plant(second, "a", ahead, b"from a fast clock")
    plant(third, "a", ahead, b"from a fast clock")
    unsure = cluster.ask(Op.PUT, "a", Record(value=b"value").pack())
    assert unsure is not None
    assert unsure.status is Status.UNCONFIRMED  # the owner took it: a reader may have been told
    assert cluster.put("a", b"value").version > ahead
    assert cluster.get("a") == b"value"


def test_a_conditional_write_needs_the_named_version():
    cluster = Cluster(8)
    reply = cluster.ask(Op.PUT, "a", conditional(0, b"one"))
    assert reply is not None
    assert reply.status is Status.OK
    first = Record.parse(reply.body).version
    for version in (0, first - 1, first + 1):
        refused = cluster.ask(Op.PUT, "a", conditional(version, b"two"))
        assert refused is not None
        assert (refused.status, Record.parse(refused.body).version) == (Status.CONFLICT, first)
    reply = cluster.ask(Op.PUT, "a", conditional(first, b"two"))
    assert reply is not None
    assert reply.status is Status.OK
    second = Record.parse(reply.body).version
    cluster.network.run(cluster.network.now + 1)
    assert {m.has("a").value for m in cluster.replicas("a")} == {b"two"}
    refused = cluster.ask(Op.DELETE, "a", conditional(first))
    assert refused is not None
    assert refused.status is Status.CONFLICT
    gone = cluster.ask(Op.DELETE, "a", conditional(second))
    assert gone is not None
    assert gone.status is Status.OK
    again = cluster.ask(Op.PUT, "a", conditional(0, b"three"))
    assert again is not None
    assert again.status is Status.OK


def test_a_condition_is_checked_against_a_majority():
    """The owner was away when the others got a newer version."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for member, version in ((owner, 7), (second, 8), (third, 8)):
        plant(member, "a", version, b"value")
    owner.repair.caught_up = lambda key: False
    refused = cluster.ask(Op.PUT, "a", conditional(7, b"x"))
    assert refused is not None
    assert (refused.status, Record.parse(refused.body).version) == (Status.CONFLICT, 8)
    done = cluster.ask(Op.PUT, "a", conditional(8, b"x"))
    assert done is not None
    assert done.status is Status.OK
    assert cluster.get("a", Op.QUORUM_GET) == b"x"
    cluster.kill(second, third)
    waits = cluster.ask(Op.PUT, "a", conditional(Record.parse(done.body).version, b"y"))
    assert waits is not None
    assert waits.status is Status.BUSY, "nothing was changed"


def test_a_refused_condition_reaches_no_other_replica():
    cluster = Cluster(8)
    cluster.put("a", b"one")
    cluster.network.run(cluster.network.now + 1)
    before = [m.coordinator.counters["stores_taken"] for m in cluster.members]
    cluster.ask(Op.PUT, "a", conditional(7, b"two"))
    cluster.network.run(cluster.network.now + 1)
    assert [m.coordinator.counters["stores_taken"] for m in cluster.members] == before


def test_a_tombstone_wins_over_an_older_record():
    cluster = Cluster(8)
    cluster.put("a", b"one")
    deleted = cluster.ask(Op.DELETE, "a")
    assert deleted is not None
    assert deleted.status is Status.OK
    cluster.network.run(cluster.network.now + 1)
    assert all(m.has("a").deleted for m in cluster.replicas("a"))
    assert cluster.get("a") is None
    again = cluster.ask(Op.DELETE, "a")
    assert again is not None
    assert again.status is Status.NOT_FOUND


def test_an_owner_without_the_record_asks_the_others():
    cluster = Cluster(8)
    owner, second, _ = cluster.replicas("a")
    plant(second, "a", 7, b"only here")
    assert cluster.get("a") == b"only here"
    cluster.network.run(cluster.network.now + 1)
    assert owner.has("a") == StoredRecord(7, 0, 0, b"only here")


def test_an_owner_behind_reads_from_a_majority():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(owner, "a", 7, b"old")
    plant(second, "a", 8, b"new")
    plant(third, "a", 8, b"new")
    assert cluster.get("a") == b"old"
    owner.repair.caught_up = lambda key: False
    assert cluster.get("a") == b"new"
    assert owner.has("a") == StoredRecord(8, 0, 0, b"new")


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_replica_behind_does_not_count_in_a_quorum_read(behind, old):
    """It was away when the write came to one of the others and to the node that then stood in its place."""
    cluster = Cluster(8)
    replicas = cluster.replicas("a")
    late = replicas[behind]
    having, lacking = (member for member in replicas if member is not late)
    for member in (late, lacking) if old else ():
        plant(member, "a", 7, old)
    plant(having, "a", 8, b"new")
    late.repair.caught_up = lambda key: False
    for _ in range(5):
        assert cluster.get("a", Op.QUORUM_GET) == b"new"
    assert lacking.has("a") == StoredRecord(8, 0, 0, b"new")


def test_replicas_behind_give_records_but_never_not_found():
    cluster = Cluster(8)
    for member in cluster.members:
        member.repair.caught_up = lambda key: False
    plant(cluster.replicas("a")[1], "a", 7, b"there")
    assert cluster.get("a") == b"there"
    for op, name in ((Op.QUORUM_GET, "a"), (Op.GET, "b")):
        reply = cluster.ask(op, name, bytes(1120))
        assert reply is not None
        assert reply.status is Status.UNCONFIRMED


def test_a_quorum_read_brings_the_newest_to_a_majority_before_it_answers():
    for holder in range(3):
        cluster = Cluster(8)
        replicas = cluster.replicas("a")
        for number, member in enumerate(replicas):
            plant(member, "a", 8 if number == holder else 7, b"new" if number == holder else b"old")
        value = cluster.get("a", Op.QUORUM_GET)
        having = sum(member.has("a").value == b"new" for member in replicas)
        if value == b"new":
            assert having >= 2
        assert cluster.get("a", Op.QUORUM_GET) == value or value == b"old"


def test_a_quorum_read_without_a_majority_is_unconfirmed():
    cluster = Cluster(3)
    owner, *others = cluster.replicas("a")
    plant(owner, "a", 7, b"value")
    cluster.kill(*others)
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    assert cluster.get("a") == b"value"


def test_not_found_needs_a_majority_of_replicas():
    """Both other replicas are too slow to be waited for; those after them answer at once."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(second, "a", 7, b"there")
    for member in (second, third):
        cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
    for op in (Op.GET, Op.QUORUM_GET):
        reply = cluster.ask(op, "a", bytes(1120))
        assert reply is not None
        assert reply.status is Status.UNCONFIRMED


def test_a_stand_in_may_give_the_record():
    """It took a silent replica's place when the record was written."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    *_, fourth = cluster.replicas("a", [m for m in cluster.members if m is not third])
    plant(fourth, "a", 7, b"there")
    cluster.kill(second, third)
    assert cluster.get("a") == b"there"
    assert owner.has("a") == StoredRecord(7, 0, 0, b"there")


def test_a_left_over_record_is_ignored_while_replicas_may_answer():
    """Both other replicas are slow, so the nodes after them are asked beside; one has a record that was deleted long ago."""
    for seed in range(8):
        cluster = Cluster(8, seed=seed)
        owner, second, third = cluster.replicas("a")
        _, fourth, *_ = cluster.replicas("a", [m for m in cluster.members if m not in (second, third)])
        plant(fourth, "a", 7, b"left over")
        fourth.repair.caught_up = lambda key: False
        for member in (second, third):
            plant(member, "a", 8, b"", int(RecordFlag.TOMBSTONE))
            cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
        cluster.send(Op.GET, "a", bytes(1120))
        cluster.network.run(cluster.network.now + 0.19)
        for member in (second, third):
            cluster.network.set_loss(owner.contact.address, member.contact.address, 0.0)
        cluster.network.run(cluster.network.now + 2)
        assert [reply.status for reply in _taken(cluster)] == [Status.NOT_FOUND]


def test_an_owner_behind_does_not_count_towards_a_majority():
    """The owner was away while the others acknowledged a write, of which one of them lags."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for member, version, value in ((owner, 7, b"old"), (second, 8, b"new"), (third, 7, b"old")):
        plant(member, "a", version, value)
    cluster.network.set_loss(owner.contact.address, second.contact.address, 1.0)
    owner.repair.caught_up = lambda key: False
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    cluster.network.set_loss(owner.contact.address, second.contact.address, 0.0)
    assert cluster.get("a", Op.QUORUM_GET) == b"new"


@pytest.mark.parametrize("held", [None, b"old"])
def test_replies_say_whether_a_replica_has_caught_up(held):
    cluster = Cluster(8)
    _, second, third = cluster.replicas("a")
    if held is not None:
        plant(second, "a", 7, held)
    for member in (second, third):
        member.repair.caught_up = lambda key: False
    reply = cluster.ask(Op.GET if held is None else Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    third.repair.caught_up = lambda key: True
    assert cluster.get("a", Op.QUORUM_GET) == held


def test_watchers_are_notified_until_the_lease_ends():
    cluster = Cluster(8)
    cluster.put("a", b"one")
    asked = cluster.ask(Op.WATCH, "a", struct.pack(">I", 30))
    assert asked is not None
    assert Record.parse(asked.body).value == b"one"
    cluster.send(Op.PUT, "a", Record(value=b"two").pack())
    cluster.send(Op.DELETE, "b")
    cluster.network.run(cluster.network.now + 1)
    told = [m for m in _taken(cluster) if m.op is Op.WATCH]
    assert [Record.parse(m.body).value for m in told] == [b"two"]
    assert {m.request_id for m in told} == {asked.request_id}
    cluster.send(Op.DELETE, "a")
    cluster.network.run(cluster.network.now + 1)
    assert [m.status for m in _taken(cluster) if m.op is Op.WATCH] == [Status.NOT_FOUND]
    cluster.network.run(cluster.network.now + 40)
    cluster.put("a", b"three")
    cluster.network.run(cluster.network.now + 1)
    assert not [m for m in _taken(cluster) if m.op is Op.WATCH]


def test_a_lease_of_zero_seconds_ends_a_watch():
    cluster = Cluster(8)
    request_id = cluster.send(Op.WATCH, "a", struct.pack(">I", 30))
    cluster.network.run(cluster.network.now + 1)
    cluster.send(Op.WATCH, "a", struct.pack(">I", 0), request_id=request_id)
    cluster.network.run(cluster.network.now + 1)
    cluster.client.take()
    cluster.put("a", b"one")
    cluster.network.run(cluster.network.now + 1)
    assert not [m for m in _taken(cluster) if m.op is Op.WATCH]


def test_writes_survive_loss():
    cluster = Cluster(8, loss=0.05, seed=3)
    done = 0
    for number in range(200):
        for _ in range(10):
            reply = cluster.ask(Op.PUT, f"k{number}", Record(value=b"x").pack(), wait=0.5)
            if reply is not None and reply.status is Status.OK:
                done += 1
                break
    assert done == 200
    cluster.network.loss = 0.0
    assert all(cluster.get(f"k{number}") == b"x" for number in range(200))


def _taken(cluster: Cluster) -> list[Message]:
    return [parse(received.data) for received in cluster.client.take()]


# --- What an operator may ask


def test_a_survey_gives_each_holders_record_or_silence():
    cluster = Cluster(6)
    owner, second, third = cluster.replicas("a")
    cluster.put("a", b"value")
    (stranger, *_) = [m for m in cluster.members if m not in (owner, second, third)]
    cluster.kill(third)
    told: list[list[Holder]] = []
    asked = [member.contact.address for member in (second, third, stranger)]
    owner.coordinator.survey(key_of("a"), asked, told.append, owner.now)
    cluster.network.run(cluster.network.now + 5)
    (holders,) = told
    assert [holder.address for holder in holders] == asked
    assert [holder.answered for holder in holders] == [True, False, True]
    assert [holder.record for holder in holders] == [owner.has("a"), None, None]


def test_a_survey_of_nobody_ends_at_once():
    told: list[list[Holder]] = []
    member = Cluster(1).members[0]
    member.coordinator.survey(key_of("a"), [], told.append, member.now)
    assert told == [[]]


def test_a_write_that_was_readable_is_unconfirmed_and_not_refused():
    """The owner has it, a quorum read brings it to a second replica, and something newer follows before the STOREs arrive."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    older = int(owner.now * 1_000_000)
    for member in (second, third):
        cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
    request = cluster.send(Op.PUT, "a", Record(older, value=b"older").pack())
    cluster.network.run(cluster.network.now + 0.04)
    assert owner.has("a") is not None
    for member in (second, third):
        plant(member, "a", older + 1, b"newer")
        cluster.network.set_loss(owner.contact.address, member.contact.address, 0.0)
    cluster.network.run(cluster.network.now + 2)
    (reply,) = [
        m for m in map(parse, (each.data for each in cluster.client.take())) if m.request_id == request
    ]
    assert reply.status is Status.UNCONFIRMED


def numbered(cluster: Cluster, version: int, value: bytes, number: int) -> Message:
    """A PUT with a version, by the client's write of that number, and its answer."""
    cluster.send(Op.PUT, "a", Record(version, value=value).pack(), request_id=number << TRY_BITS)
    cluster.network.run(cluster.network.now + 2)
    (reply,) = [parse(each.data) for each in cluster.client.take()]
    return reply


def test_a_version_belongs_to_one_write():
    cluster = Cluster(8)
    version = int(cluster.members[0].now * 1_000_000)
    replies = [numbered(cluster, version, b"%d" % number, number) for number in (1, 2, 1)]
    assert [reply.status for reply in replies] == [Status.OK, Status.BAD_VERSION, Status.OK]


def test_a_version_below_a_pending_one_is_refused_without_a_message():
    cluster = Cluster(8)
    version = int(cluster.members[0].now * 1_000_000)
    assert numbered(cluster, version, b"later", 1).status is Status.OK
    before = dict(cluster.network.counts)
    reply = numbered(cluster, version - 1, b"earlier", 2)
    assert (reply.status, Record.parse(reply.body).version) == (Status.BAD_VERSION, version)
    assert cluster.network.counts["delivered"] - before["delivered"] == 2  # the request and its answer
