"""Writes to all replicas and their conditions, and surveys: coordinators on a virtual network."""

import pytest
from replica_cluster import Cluster, key_of
from replica_steps import far, plant

from kdht.datapath.base import Datagram
from kdht.datapath.memory import Event
from kdht.node.replicas import Policy
from kdht.node.replicas.holders import Holder
from kdht.storage import StoredRecord
from kdht.wire import OFFSET, Address, Message, Record, pack_write, parse
from kdht.wire._shared import TRY_BITS, Op, Reason, Status


def conditional(version: int, value: bytes = b"") -> bytes:
    return pack_write(Record(value=value), version)


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
    asked: dict[Address, int] = {}
    cluster.network.observer = lambda event: asked.setdefault(event.target, parse(event.data).request_id)
    request = cluster.send(Op.PUT, "a", Record(value=b"value").pack(), via=owner)
    cluster.network.run(cluster.network.now + (0.9 if late else 0.1))
    assert not cluster.client.take()
    for replica in (second, third):
        address = replica.contact.address
        owner.coordinator.unreachable(address, asked[address], owner.now)
    cluster.network.run(cluster.network.now + 0.3)
    replies = [parse(each.data) for each in cluster.client.take()]
    status = Status.OK if caught_up else Status.UNCONFIRMED
    assert [(each.request_id, each.status) for each in replies] == [(request, status)]


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
    ahead = int((owner.now + 50) * 1_000_000)
    plant(second, ahead, b"from a fast clock")
    plant(third, ahead, b"from a fast clock")
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
        plant(member, version, b"value")
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


def test_a_write_that_was_readable_is_never_called_refused():
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
        plant(member, older + 1, b"newer")
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
