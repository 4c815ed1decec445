"""Self-certified records in a cluster: nobody but their owner changes them, not even a member with the secret."""

import pytest
from replica_cluster import Cluster
from signing import KEY, OTHER_SEED, PLAIN, forgeries, put_body, signed, stored, write

from kdht.datapath.base import Outgoing
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas.calls import seal_as_sender
from kdht.node.replicas.writes import pack_stored
from kdht.storage import StoredRecord
from kdht.wire import RECORD, Record, pack_promise, pack_request, pack_write, parse
from kdht.wire._shared import HEADER_LEN, Op, RecordFlag, Status
from kdht.wire.certified import CERTIFIED, immutable_key

IMMUTABLE_KEY = immutable_key(PLAIN)


def put(cluster, value, key=KEY, **how):
    """The reply to a PUT of a signed or an immutable value."""
    condition, ttl = how.pop("condition", None), how.pop("ttl", 0)
    return cluster.ask(Op.PUT, key, put_body(value, ttl, condition), **how)


def version_of(reply):
    return Record.parse(reply.body).version


def plant(member, value):
    (result,) = member.store.apply([write(value)], member.now)
    assert result.accepted


def send(cluster, op, body, receiver, key=KEY):
    """A control message of a member with the secret, and the replies to it."""
    liar = next(each for each in cluster.members if each is not receiver)
    message = pack_request(op, key, 0xBAD, body, hops=CONTROL_HOPS)
    seal_as_sender(liar.core, message, liar.contact.address, liar.now)
    replies = []
    liar.coordinator._on_strays = replies.extend
    liar.transport.send([Outgoing(bytes(message), receiver.contact.address, liar.contact.address)])
    cluster.network.run(cluster.network.now + 1)
    return [parse(each.data) for each in replies]


# --- Writing


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_signed_value_is_stored_and_read_with_its_certificate(size):
    cluster = Cluster(size)
    reply = put(cluster, signed(3))
    assert (reply.status, version_of(reply)) == (Status.OK, CERTIFIED + 3)
    for op in (Op.GET, Op.QUORUM_GET):
        record = Record.parse(cluster.ask(op, KEY, bytes(1120)).body)
        assert record == Record(CERTIFIED + 3, 0, signed(3).flags, signed(3).value)
    assert all(member.has(KEY) == stored(signed(3)) for member in cluster.replicas(KEY))


def test_an_immutable_value_is_stored_under_its_hash():
    cluster = Cluster(5)
    assert put(cluster, PLAIN, IMMUTABLE_KEY).status is Status.OK
    assert cluster.get(IMMUTABLE_KEY) == PLAIN
    assert put(cluster, PLAIN + b"!", IMMUTABLE_KEY).status is Status.DENIED
    assert cluster.get(IMMUTABLE_KEY) == PLAIN


def test_two_clients_may_bring_the_same_value():
    cluster = Cluster(5)
    for value, key in ((PLAIN, IMMUTABLE_KEY), (signed(3), KEY)):
        for _ in range(3):
            assert put(cluster, value, key).status is Status.OK


@pytest.mark.parametrize("ttls", [(60, 600), (600, 60), (60, 0), (0, 60)])
def test_a_value_brought_again_lives_longer_and_never_shorter(ttls):
    cluster = Cluster(3)
    for ttl in ttls:
        assert put(cluster, PLAIN, IMMUTABLE_KEY, ttl=ttl).status is Status.OK
    longest = 0 if 0 in ttls else 600
    expiry = cluster.members[0].has(IMMUTABLE_KEY).expiry
    assert expiry == 0 if not longest else abs(expiry - cluster.network.now - longest) < 5


@pytest.mark.parametrize("via_same", [True, False])
def test_a_greater_seq_wins_and_a_lower_one_is_refused(via_same):
    cluster = Cluster(8)
    via = {} if via_same else {"via": cluster.members[5]}
    for seq in (3, 4, 9):
        assert put(cluster, signed(seq, f"value {seq}")).status is Status.OK
    for seq in (3, 4, 8):
        reply = put(cluster, signed(seq, "older"), **via)
        assert (reply.status, version_of(reply)) == (Status.BAD_VERSION, CERTIFIED + 9)
    reply = put(cluster, signed(9, "another value of one seq"), **via)
    assert (reply.status, version_of(reply)) == (Status.BAD_VERSION, CERTIFIED + 9)
    assert all(member.has(KEY) == stored(signed(9, "value 9")) for member in cluster.replicas(KEY))


def test_a_lower_seq_is_not_confirmed_by_replicas_that_have_a_greater_one():
    """The coordinator has nothing itself."""
    cluster = Cluster(8)
    for member in cluster.replicas(KEY)[1:]:
        plant(member, signed(9))
    assert put(cluster, signed(4)).status is Status.UNCONFIRMED
    assert cluster.get(KEY, Op.QUORUM_GET) == signed(9).value


@pytest.mark.parametrize("what", [each for each in forgeries() if each.startswith(("another", "an imm"))])
def test_a_forged_put_is_denied(what):
    cluster = Cluster(3)
    assert put(cluster, signed(1)).status is Status.OK
    forged = forgeries()[what]
    body = RECORD.pack(0, 0, forged.flags) + (forged.version - CERTIFIED).to_bytes(8, "big") + forged.value
    reply = cluster.ask(Op.PUT, KEY, body if forged.flags & RecordFlag.SIGNED else put_body(forged.value))
    # The greatest version is that of no seq.
    assert reply.status in (Status.DENIED, Status.BAD_REQUEST)
    assert all(member.has(KEY) == stored(signed(1)) for member in cluster.members)
    assert sum(member.coordinator.counters["writes_uncertified"] for member in cluster.members) == (
        reply.status is Status.DENIED
    )


# --- Conditions: BEP 44's cas


def test_a_signed_value_is_written_on_condition():
    cluster = Cluster(5)
    assert put(cluster, signed(1), condition=0).status is Status.OK
    assert put(cluster, signed(2), condition=CERTIFIED + 1).status is Status.OK
    for condition in (0, CERTIFIED + 1, CERTIFIED + 7):
        reply = put(cluster, signed(3), condition=condition)
        assert (reply.status, version_of(reply)) == (Status.CONFLICT, CERTIFIED + 2)
    assert cluster.get(KEY, Op.QUORUM_GET) == signed(2).value


@pytest.mark.parametrize("seed", range(12))
def test_of_two_writers_with_one_condition_one_wins(seed):
    cluster = Cluster(8, seed=seed)
    assert put(cluster, signed(1)).status is Status.OK
    bodies = [put_body(signed(2, f"writer {number}"), 0, CERTIFIED + 1) for number in range(2)]
    sent = [
        cluster.send(Op.PUT, KEY, body, via=cluster.members[number], attempt=number)
        for number, body in enumerate(bodies)
    ]
    cluster.network.run(cluster.network.now + 4)
    replies = [parse(each.data) for each in cluster.client.take()]
    said = [next(reply.status for reply in replies if reply.request_id == each) for each in sent]
    values = [signed(2, f"writer {number}").value for number in range(2)]
    assert said.count(Status.OK) <= 1
    value = cluster.get(KEY, Op.QUORUM_GET)
    assert value in ([values[said.index(Status.OK)]] if Status.OK in said else [*values, signed(1).value])


def test_an_immutable_value_has_no_condition():
    cluster = Cluster(3)
    body = RECORD.pack(0, 0, RecordFlag.IMMUTABLE | RecordFlag.IF_VERSION) + bytes(8) + PLAIN
    assert cluster.ask(Op.PUT, IMMUTABLE_KEY, body).status is Status.BAD_REQUEST


# --- Ordinary writes at the key of a self-certified record


@pytest.mark.parametrize("version", [0, 1_800_000_000_000_000, CERTIFIED + 3, CERTIFIED + 4, 2**64 - 1])
@pytest.mark.parametrize("op", [Op.PUT, Op.DELETE])
@pytest.mark.parametrize("here", [True, False])
def test_an_ordinary_write_over_a_signed_value_is_denied(op, version, here):
    cluster = Cluster(8)
    owner, *others = cluster.replicas(KEY)
    for member in [owner, *others] if here else others:
        plant(member, signed(3))
    if version == 1_800_000_000_000_000:
        version = int(cluster.network.now * 1_000_000)
    value = b"mine" if op is Op.PUT else b""
    reply = cluster.ask(op, KEY, Record(version, 0, 0, value).pack())
    # A coordinator without the signed value has taken the other one by itself; the next read or repair replaces it.
    assert reply.status in (
        (Status.DENIED,) if here or version >= CERTIFIED else (Status.DENIED, Status.UNCONFIRMED)
    )
    assert reply.body == b""
    assert cluster.get(KEY, Op.QUORUM_GET) == signed(3).value
    assert cluster.replicas(KEY)[0].coordinator.counters["write_rounds"] == 0, "not tried again above it"


@pytest.mark.parametrize("condition", [0, 7, CERTIFIED + 3])
def test_an_ordinary_write_on_condition_is_denied_too(condition):
    cluster = Cluster(5)
    assert put(cluster, signed(3)).status is Status.OK
    version = max(condition + 1, int(cluster.network.now * 1_000_000))
    reply = cluster.ask(Op.PUT, KEY, pack_write(Record(version, 0, 0, b"mine"), condition))
    assert reply.status is Status.DENIED
    assert cluster.get(KEY) == signed(3).value


def test_a_signed_value_takes_its_key_from_a_squatter():
    cluster = Cluster(5)
    cluster.put(KEY, b"a squatter's")
    assert put(cluster, signed(0)).status is Status.OK
    assert cluster.get(KEY, Op.QUORUM_GET) == signed(0).value


def test_the_clock_does_not_follow_a_seq():
    cluster = Cluster(3)
    assert put(cluster, signed(2**63 - 1)).status is Status.OK
    cluster.get(KEY, Op.QUORUM_GET)
    for name in ("a", "b", "c"):
        record = cluster.put(name, b"value")
        assert abs(record.version - cluster.network.now * 1_000_000) < 5_000_000


def test_a_signed_value_cannot_be_deleted():
    cluster = Cluster(3)
    assert put(cluster, signed(3)).status is Status.OK
    assert cluster.ask(Op.DELETE, KEY, put_body(signed(4))).status is Status.BAD_REQUEST
    assert put(cluster, signed(4, "")).status is Status.OK


# --- A member with the secret


@pytest.mark.parametrize("what", forgeries())
def test_a_replica_refuses_a_members_forgery(what):
    cluster = Cluster(2)
    receiver = cluster.replicas(KEY)[0]
    plant(receiver, signed(1))
    replies = send(cluster, Op.STORE, forged_body(forgeries()[what]), receiver)
    assert receiver.has(KEY) == stored(signed(1))
    counters = receiver.coordinator.counters
    assert counters["stores_taken"] == 0
    assert counters["stores_uncertified"] + counters["BAD_LENGTH"] + counters["BAD_FLAGS"] == 1
    assert [reply.status for reply in replies] == [Status.DENIED] * counters["stores_uncertified"]


def forged_body(record: StoredRecord) -> bytes:
    return RECORD.pack(record.version, record.expiry, record.flags) + record.value


def test_a_replica_refuses_an_older_signed_value():
    cluster = Cluster(2)
    receiver = cluster.replicas(KEY)[0]
    plant(receiver, signed(5))
    (reply,) = send(cluster, Op.STORE, pack_stored(stored(signed(4))), receiver)
    assert reply.status is Status.CONFLICT
    assert receiver.has(KEY) == stored(signed(5))


@pytest.mark.parametrize("what", forgeries())
@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET])
def test_a_record_forged_on_disk_is_neither_read_nor_spread(op, what):
    """The replica itself believes its disk; the others and the reader's coordinator do not."""
    cluster = Cluster(5, plain=True)  # the forgery is put in the place of `get`
    owner, liar, third = cluster.replicas(KEY)
    for member in (owner, third):
        plant(member, signed(1))
    # A read that the owner's store alone cannot answer. A quorum read never is.
    if op is Op.GET:
        owner.repair.caught_up = lambda key: False
    liar.store.get = lambda key, now: forgeries()[what]
    reply = cluster.ask(op, KEY, bytes(1120))
    assert (reply.status, Record.parse(reply.body).value) == (Status.OK, signed(1).value)
    assert owner.has(KEY) == third.has(KEY) == stored(signed(1))
    counters = owner.coordinator.counters
    assert counters["calls_uncertified"] + counters["calls_unreadable"] >= 1


@pytest.mark.parametrize("body", [
    pack_promise(2**64 - 1, 1),
    pack_promise(CERTIFIED + 5, 1),
    pack_promise(CERTIFIED + 6, 1, certified=(signed(5).flags, signed(5).value)),
    pack_promise(CERTIFIED + 5, 1, certified=(signed(5).flags, signed(5, seed=OTHER_SEED).value)),
    pack_promise(CERTIFIED + 5, 1, certified=(0, b"")),
])  # fmt: skip
def test_a_certified_version_is_promised_only_with_its_certificate(body):
    cluster = Cluster(2)
    receiver = cluster.replicas(KEY)[0]
    assert send(cluster, Op.PROMISE, body, receiver) == []
    assert receiver.coordinator.counters["promises_uncertified"] == 1
    cluster.put(KEY, b"an ordinary value")


def test_a_promise_with_its_proof_is_given():
    cluster = Cluster(2)
    receiver = cluster.replicas(KEY)[0]
    body = pack_promise(CERTIFIED + 5, 1, certified=(signed(5).flags, signed(5).value))
    (reply,) = send(cluster, Op.PROMISE, body, receiver)
    assert reply.status is Status.OK
    assert len(body) < 1120 - HEADER_LEN


def test_a_batch_with_one_forgery_is_taken_without_it():
    cluster = Cluster(2)
    receiver = cluster.replicas(KEY)[0]
    now = int(cluster.network.now * 1_000_000)
    send(cluster, Op.STORE, pack_stored(StoredRecord(now, 0, 0, b"plain")), receiver, key=bytes(20))
    send(cluster, Op.STORE, forged_body(forgeries()["another value"]), receiver)
    send(cluster, Op.STORE, pack_stored(stored(PLAIN)), receiver, key=IMMUTABLE_KEY)
    assert receiver.has(bytes(20)).value == b"plain"
    assert receiver.has(IMMUTABLE_KEY) == stored(PLAIN)
    assert receiver.has(KEY) is None
    assert receiver.coordinator._clock.last == now


def test_without_libsodium_another_replica_answers(monkeypatch):
    values = signed(1), PLAIN
    monkeypatch.delattr("kdht.wire._sodium")
    monkeypatch.setitem(__import__("sys").modules, "kdht.wire._sodium", None)
    cluster = Cluster(3)
    assert put(cluster, values[0]).status is Status.STORAGE_FAILED
    assert put(cluster, values[1], IMMUTABLE_KEY).status is Status.OK
