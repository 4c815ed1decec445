"""Nodes that join, one or many at once, while clients read and write: nothing that stands is said not to be there.

The virtual cluster is the daemon's code under a virtual clock, and the clients' requests are the library's.
"""

from functools import partial
from random import Random

import pytest

from kdht.client import _calls as calls
from kdht.client._exchange import Exchange
from kdht.errors import KdhtError, NotFound
from kdht.lab.virtual import VirtualCluster, contact_of
from kdht.lab.virtual.client import VirtualRequest
from kdht.node.options import Options
from kdht.node.repair.ranges import number as number_of
from kdht.node.replicas import Policy
from kdht.storage import StoredRecord, Write
from kdht.wire import Address, hash_key

pytestmark = pytest.mark.slow

RATE = 50
"""Requests a virtual second."""
SOON = 90.0


class Watched:
    """A cluster with `count` values, whose clients count every wrong word."""

    def __init__(self, seed: int, old: int, count: int, *, loss: float = 0.0, replicas: int = 3) -> None:
        self.rng = Random(f"joining {seed}")
        self.cluster = VirtualCluster(seed, policy=Policy(replicas=replicas), loss=loss)
        self.cluster.grow(old, pause=0.5)
        self.cluster.run(15)
        self.names = [f"value {number}" for number in range(count)]
        for name in self.names:
            self._load(hash_key(name))
        self.false_not_found: list[str] = []
        self.overwritten: list[str] = []
        self.failed: list[KdhtError] = []
        self.good = 0
        self._port = 1024

    def _load(self, key: bytes) -> None:
        wanted = int.from_bytes(key, "big")
        members = sorted(
            self.cluster.members, key=lambda each: int.from_bytes(each.contact.id, "big") ^ wanted
        )
        assert self.cluster.policy is not None
        for member in members[: self.cluster.policy.replicas]:
            assert member.records is not None
            write = Write(key, StoredRecord(7, 0, 0, b"stands"))
            member.records.writer.submit([write], self.cluster.network.now, lambda outcome: None)

    def ask_for(self, seconds: float) -> None:
        """Load for so long: reads, and conditional writes of what is thought not to be there."""
        end = self.cluster.network.now + seconds
        while self.cluster.network.now < end:
            self._ask()
            self.cluster.run(1 / RATE)
        self.cluster.run(6)

    def _ask(self) -> None:
        name = self.rng.choice(self.names)
        if self.rng.random() < 0.2:
            call, ended = calls.put(name, b"lost", None, if_version=0), self._put
        else:
            call, ended = calls.get(name, quorum=self.rng.random() < 0.3), self._got
        self._port = 1024 + (self._port - 1023) % 60000
        VirtualRequest(
            self.cluster.network,
            Address.of("192.0.2.7", self._port),
            [self.rng.choice(self.cluster.members).contact.address for _ in range(2)],
            call,
            partial(ended, name),
            self.rng,
        )

    def _got(self, name: str, exchange: Exchange, seconds: float) -> None:
        try:
            exchange.result()
        except NotFound:
            self.false_not_found.append(name)
        except KdhtError as error:
            self.failed.append(error)
        else:
            self.good += 1

    def _put(self, name: str, exchange: Exchange, seconds: float) -> None:
        try:
            answer = exchange.result()
        except KdhtError as error:
            self.failed.append(error)
        else:
            if answer.status.name == "OK":
                self.overwritten.append(name)

    def copies(self, name: str) -> int:
        stores = [each.store for each in self.cluster.members if each.records is not None]
        return sum(store.get(hash_key(name), self.cluster.network.now) is not None for store in stores)

    def is_ready(self) -> bool:
        return all(member.node.ready for member in self.cluster.members)

    def expect_no_wrong_word(self) -> None:
        assert (self.false_not_found, self.overwritten) == ([], [])


@pytest.mark.parametrize("seed", range(3))
def test_nine_joiners_of_three_nodes_lose_no_value(seed: int) -> None:
    watched = Watched(seed, 3, 400)
    watched.cluster.grow(9)
    watched.ask_for(30)
    watched.expect_no_wrong_word()
    assert watched.is_ready()
    assert watched.good > 20 * RATE * 0.8


def test_24_joiners_of_24_nodes_lose_no_value() -> None:
    watched = Watched(4, 24, 300)
    watched.cluster.grow(24)
    watched.ask_for(20)
    watched.expect_no_wrong_word()
    assert watched.is_ready()


def test_16_joins_in_a_row_lose_no_value() -> None:
    watched = Watched(5, 1, 200)
    for _ in range(15):
        watched.cluster.grow(1)
        watched.ask_for(1.0)
    watched.ask_for(10)
    watched.expect_no_wrong_word()
    assert watched.is_ready()


def test_joins_on_a_lossy_network_give_no_wrong_answer() -> None:
    watched = Watched(6, 3, 200, loss=0.05)
    watched.cluster.grow(6)
    watched.ask_for(30)
    watched.expect_no_wrong_word()


def test_replacing_all_hosts_one_by_one_loses_no_value() -> None:
    watched = Watched(7, 3, 300)
    for number in range(4, 7):
        leaver = watched.cluster.members[0]
        watched.cluster.add(number, bootstrap=watched.cluster.contacts())
        watched.ask_for(10)
        assert watched.is_ready()
        leaver.node.drain(watched.cluster.network.now)
        leaver.flush()
        watched.cluster.members.remove(leaver)
        watched.ask_for(10)
        leaver.stop()
    watched.ask_for(10)
    watched.expect_no_wrong_word()


def test_a_restart_in_reverse_order_loses_no_value() -> None:
    """The bootstrap contact of all comes last."""
    cluster = VirtualCluster(8, policy=Policy())
    for number in range(16, 0, -1):
        cluster.add(number, bootstrap=[contact_of(1, 8)] if number > 1 else [])
        cluster.run(0.3)
    assert cluster.network.run_while(lambda: not all(each.node.ready for each in cluster.members), 40)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 5), (3, 2)])
def test_the_replica_count_can_change_node_by_node(before: int, after: int) -> None:
    watched = Watched(9, 6, 200, replicas=before)
    cluster = watched.cluster
    cluster.policy = Policy(replicas=after, acks=after // 2 + 1)
    for number in range(1, 7):
        contact = contact_of(number, 9)
        cluster.kill(next(each for each in cluster.members if each.contact == contact))
        watched.ask_for(1)
        again = cluster.add(number, bootstrap=cluster.contacts())
        watched.ask_for(1)
        assert cluster.network.run_while(lambda again=again: not again.node.ready, 15)  # type: ignore[misc]
        assert again.node.repair is not None
        if number < 5:
            status = again.node.repair.status()
            assert status["replicas"] == max(before, after)
            assert status["others_replicas"] == [before]
    watched.cluster.run(70)  # all have compared with all
    assert all(each.node.repair.status()["replicas"] == after for each in cluster.members)  # type: ignore[union-attr]
    watched.expect_no_wrong_word()
    for name in watched.names:
        assert watched.copies(name) >= after


@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize(("count", "k", "replicas", "seed"), [(12, 3, 3, 0), (12, 3, 3, 1), (16, 5, 5, 1)])
def test_small_buckets_still_know_all_replicas(
    count: int, k: int, replicas: int, seed: int, pause: float
) -> None:
    """Some nodes have more than k others beside them that keep keys with them."""
    cluster = VirtualCluster(seed, options=Options(k=k), policy=Policy(replicas=replicas))
    cluster.grow(count, pause)
    cluster.run(30)
    assert [member for member in cluster.members if not member.node.ready] == []
    everybody = [contact.id for contact in cluster.contacts()]
    for member in cluster.members:
        known = [member.contact.id, *(contact.id for contact in member.published())]
        for key in map(number_of, everybody):
            closest = sorted(everybody, key=lambda id: number_of(id) ^ key ^ 1)[:replicas]
            if member.contact.id in closest:
                assert sorted(known, key=lambda id: number_of(id) ^ key ^ 1)[:replicas] == closest
