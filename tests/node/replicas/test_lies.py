"""A member that lies about versions: it stops no write, of this key or of any other."""

import pytest
from liar import Liar
from replica_cluster import Cluster, key_of

from kdht.storage.versions import latest_version
from kdht.wire import RECORD, Record, pack_promise, pack_write
from kdht.wire._shared import REPLAY_WINDOW, Op, Status

IMPOSSIBLE = [2**64 - 1, 2**63, 2**63 - 1, 2**53]


def lies(version: int) -> dict[str, dict[Op, tuple[Status, bytes]]]:
    """By name: what the member answers to each kind of question."""
    head = RECORD.pack(version, 0, 0)
    ok = dict.fromkeys((Op.FETCH, Op.STORE, Op.PROMISE), (Status.OK, head))
    return {
        "has it": ok,
        "has something newer": ok | {Op.STORE: (Status.CONFLICT, head)},
        "promised it": ok | dict.fromkeys((Op.STORE, Op.PROMISE), (Status.BAD_VERSION, head)),
        "is behind": ok
        | {Op.FETCH: (Status.UNCONFIRMED, head), Op.STORE: (Status.OK, RECORD.pack(version, 0, 8))},
    }


@pytest.mark.parametrize("version", IMPOSSIBLE)
@pytest.mark.parametrize("name", lies(1))
def test_the_cluster_writes_on_beside_a_lying_replica(name, version):
    cluster = Cluster(8)
    cluster.put("a", b"before")
    owner, lying, third = cluster.replicas("a")
    liar = Liar(cluster, lying, lies(version)[name].get)
    for victim in (owner, third):
        liar.send(victim, Op.STORE, "a", RECORD.pack(version, 0, 0) + b"lie")
        liar.send(victim, Op.PROMISE, "a", pack_promise(version, 7))
    cluster.network.run(cluster.network.now + 1)
    assert cluster.get("a", Op.QUORUM_GET) == b"before"
    stands = cluster.put("a", b"after").version
    assert stands < version
    assert cluster.put("b", b"another key").version < version
    assert cluster.get("a", Op.QUORUM_GET) == b"after"
    reply = cluster.ask(Op.PUT, "a", pack_write(Record(value=b"swapped"), stands))
    assert reply is not None
    assert reply.status is Status.OK
    counters = owner.coordinator.counters
    # Of a version with the top bit the certificate is missing; another one is beyond the clock.
    assert counters["stores_ahead"] + counters["stores_uncertified"] == 1
    assert counters["promises_refused"] + counters["promises_uncertified"] == 1


def test_the_largest_lie_delays_only_its_own_key():
    """A member may always write what a fast clock could. Later versions of other keys do not follow it."""
    cluster = Cluster(8)
    owner, lying, third = cluster.replicas("a")
    liar = Liar(cluster, lying)
    version = latest_version(cluster.network.now, REPLAY_WINDOW)
    for victim in (owner, third):
        liar.send(victim, Op.STORE, "a", RECORD.pack(version, 0, 0) + b"lie")
    cluster.network.run(cluster.network.now + 1)
    assert owner.has("a") is not None
    ahead = owner.coordinator._clock.next(owner.now) / 1_000_000 - owner.now
    assert ahead < 1
    own = cluster.ask(Op.PUT, "a", Record(version + 1, value=b"above").pack())
    assert own is not None
    assert own.status is Status.OK, "a client that was told the version writes above it"
    cluster.network.run(cluster.network.now + 62)
    cluster.ask(Op.PUT, "a", Record(value=b"honest").pack())
    assert cluster.put("a", b"honest").version > version, "and one without a clock a minute later"


def test_a_record_beyond_the_clock_is_replaced_by_the_replicas_copies():
    """As a fault of a disk leaves it: under the store, beside all checks."""
    cluster = Cluster(8)
    stands = cluster.put("a", b"good")
    cluster.network.run(cluster.network.now + 1)
    owner = cluster.replicas("a")[0]
    fault = owner.store._records[key_of("a")]._replace(version=2**64 - 1)
    owner.store._records[key_of("a")] = fault
    assert cluster.get("a") == b"good"
    cluster.network.run(cluster.network.now + 1)
    assert owner.has("a").version == stands.version


@pytest.mark.parametrize("version", [*IMPOSSIBLE, 2**63 + 1])
def test_two_nodes_of_which_one_lies_raise_nothing(version):
    """Each write is refused by the liar; none of the rounds may leave the 64 bits."""
    cluster = Cluster(2)
    honest, lying = cluster.members
    for name in ("has something newer", "promised it"):
        liar = Liar(cluster, lying, lies(version)[name].get)
        for body in (Record(value=b"x").pack(), pack_write(Record(value=b"x"), 0)):
            cluster.ask(Op.PUT, "a", body, via=honest)
            cluster.ask(Op.QUORUM_GET, "a", via=honest)
        liar.stop()
    assert honest.coordinator.counters["faults"] == 0
    assert honest.coordinator._clock.next(honest.now) < version or version == 2**53
