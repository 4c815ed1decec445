"""Sixteen real daemons: nodes die, leave, come back, and are cut off; no confirmed value is lost.

client   n1   n2   ...   n16
  |      |    |           |
--+------+----+-- br0 ----+--
"""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster_load import value_of

from kdht import AsyncClient
from kdht.errors import RequestError
from kdht.lab import census
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import hash_key

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

NODES = 16
REPLICAS = 3
HEALED = 60.0
"""Seconds in which a cluster has all replicas again."""


class Built(NamedTuple):
    cluster: Cluster
    client: Host

    @property
    def living(self) -> list[LabNode]:
        return [node for node in self.cluster.nodes if node.alive()]


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    with Lab("t-survival") as lab:
        places = places_in(lab, NODES)
        client = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, tmp_path, datapath="socket", ids=spread(NODES)) as cluster:
            wait_until(
                lambda: all(node.status()["ready"] for node in cluster.nodes), "all to be ready", HEALED
            )
            yield Built(cluster, client)


def names(count: int, prefix: str = "key") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def put(client: Host, through: Sequence[LabNode], keys: Sequence[str]) -> None:
    async def work() -> None:
        async with AsyncClient([str(node.address) for node in through]) as kdht:
            await kdht.put_many({key: value_of(key) for key in keys}, window=64)

    with client.enter():
        asyncio.run(work())


def lost(client: Host, through: Sequence[LabNode], keys: Sequence[str], window: int = 64) -> list[str]:
    """The keys whose value does not come back."""
    missing: list[str] = []
    waiting = iter(keys)

    async def worker(kdht: AsyncClient) -> None:
        for key in waiting:
            try:
                if await kdht.get(key) != value_of(key):
                    missing.append(f"{key}: another value")
            except RequestError as error:
                missing.append(f"{key}: {error!r}")

    async def work() -> None:
        async with AsyncClient([str(node.address) for node in through]) as kdht:
            await asyncio.gather(*(worker(kdht) for _ in range(window)))

    with client.enter():
        asyncio.run(work())
    return missing


def wait_healed(nodes: Sequence[LabNode], records: int, since: float) -> float:
    """Seconds since `since` until the nodes together hold that many records, and have nothing to compare or send."""

    def healed() -> bool:
        found = [node.status() for node in nodes]
        busy = sum(
            status["repair"][what] for status in found for what in ("behind", "running", "planned", "pushing")
        )
        known = all(status["contacts"] == len(nodes) - 1 for status in found)
        return known and not busy and sum(status["records"] for status in found) == records

    wait_until(
        healed,
        f"{records} records on {len(nodes)} nodes at rest",
        HEALED - (time.monotonic() - since),
    )
    return time.monotonic() - since


def misplaced(built: Built, keys: Sequence[str], ids: dict[str, bytes]) -> list[str]:
    """What is not exactly on the nodes that are closest, with the right value. All daemons are ended for it."""
    nodes = built.living
    built.cluster.stop()
    found = census.take(nodes)
    living = [(ids[node.name], node.name) for node in nodes]
    wrong = []
    for key in keys:
        holders = found.pop(hash_key(key), {})
        if sorted(holders) != sorted(census.closest(living, hash_key(key), REPLICAS)):
            wrong.append(f"{key}: on {sorted(holders)}")
        elif {record.value for record in holders.values()} != {value_of(key)}:
            wrong.append(f"{key}: another value")
    return wrong + [f"{key.hex()}: unknown, on {sorted(holders)}" for key, holders in found.items()]


def ids_of(nodes: Sequence[LabNode]) -> dict[str, bytes]:
    return {node.name: bytes.fromhex(node.status()["node_id"]) for node in nodes}


@pytest.mark.parametrize("how", ["process", "host"])
def test_two_nodes_die_at_once(built: Built, how: str) -> None:
    """As processes, whose hosts answer with ICMP; as hosts, which are silent."""
    keys = names(2000)
    cluster = built.cluster
    put(built.client, cluster.nodes, keys)
    ids = ids_of(cluster.nodes)
    victims = random.Random(how).sample(cluster.nodes[1:], 2)
    for victim in victims:
        if how == "host":
            victim.host.set_link("eth0", up=False)
    for victim in victims:
        victim.kill()
    died = time.monotonic()
    assert not lost(built.client, built.living, keys)
    read = time.monotonic() - died
    healed = wait_healed(built.living, REPLICAS * len(keys), died)
    print(f"{how}: read {len(keys)} values in {read:.1f} s, {REPLICAS} replicas of each after {healed:.1f} s")
    assert not misplaced(built, keys, ids)


def test_a_partition_heals(built: Built) -> None:
    """Both halves go on; the greater version of each key is everywhere afterwards."""
    cluster, client = built
    keys = names(400)
    put(client, cluster.nodes, keys)
    left, right = cluster.nodes[: NODES // 2], cluster.nodes[NODES // 2 :]
    cut(left, right)
    wait_until(
        lambda: all(node.status()["contacts"] < NODES // 2 for node in cluster.nodes), "both halves alone"
    )
    written: dict[str, bytes] = {}

    async def write(side: Sequence[LabNode], value: bytes, mine: Sequence[str]) -> None:
        async with AsyncClient([str(node.address) for node in side]) as kdht:
            for key in mine:
                await kdht.put(key, value)
                written[key] = value

    with client.enter():
        asyncio.run(write(left, b"left", keys[:250]))
        asyncio.run(write(right, b"right", keys[150:]))
    healed = time.monotonic()
    join(cluster.nodes)
    wait_until(
        lambda: all(node.status()["contacts"] == NODES - 1 for node in cluster.nodes), "one cluster", HEALED
    )

    async def read(node: LabNode) -> dict[str, bytes]:
        async with AsyncClient(str(node.address)) as kdht:
            found = await kdht.get_many(keys)
            return {str(key): value for key, value in found.items()}

    def agree() -> bool:
        with client.enter():
            return all(asyncio.run(read(node)) == written for node in (left[0], right[0]))

    wait_until(agree, "both halves to agree", HEALED - (time.monotonic() - healed))
    wait_healed(cluster.nodes, REPLICAS * len(keys), healed)
    print(f"agreed, {REPLICAS} replicas of each, {time.monotonic() - healed:.1f} s after the partition")
    nodes = list(cluster.nodes)
    cluster.stop()
    found = census.take(nodes)
    assert {key: {r.value for r in found[hash_key(key)].values()} for key in keys} == {
        key: {value} for key, value in written.items()
    }


def cut(left: Sequence[LabNode], right: Sequence[LabNode]) -> None:
    """No packet passes between the two sides; the client reaches both."""
    for side, other in ((left, right), (right, left)):
        addresses = ", ".join(node.address.host for node in other)
        for node in side:
            node.host.nft(
                "table ip cut { chain in { type filter hook prerouting priority -400; "
                f"ip saddr {{ {addresses} }} drop\n}}\n}}"
            )


def join(nodes: Sequence[LabNode]) -> None:
    for node in nodes:
        node.host.nft("delete table ip cut")


def test_a_node_joins_and_one_drains_under_load(built: Built) -> None:
    cluster, client = built
    keys = names(1000)
    ids = ids_of(cluster.nodes)
    late = cluster.nodes[-1]
    late.stop()
    wait_until(
        lambda: all(node.status()["contacts"] == NODES - 2 for node in built.living), "the others to know"
    )
    put(client, built.living, keys)
    wait_healed(built.living, REPLICAS * len(keys), time.monotonic())
    nodes = [(id, name) for name, id in ids.items()]
    share = sum(late.name in census.closest(nodes, hash_key(key), REPLICAS) for key in keys)
    assert share
    failed: list[str] = []
    reads = 0
    drained = cluster.nodes[3]

    async def work() -> None:
        nonlocal reads
        ended = asyncio.Event()

        async def reader(kdht: AsyncClient, seed: int) -> None:
            nonlocal reads
            rng = random.Random(seed)
            while not ended.is_set():
                key = rng.choice(keys)
                try:
                    if await kdht.get(key) != value_of(key):
                        failed.append(f"{key}: another value")
                except RequestError as error:
                    failed.append(f"{key}: {error!r}")
                reads += 1

        through = [node for node in built.living if node is not drained]
        async with AsyncClient([str(node.address) for node in through]) as kdht:
            readers = [asyncio.create_task(reader(kdht, seed)) for seed in range(8)]
            try:
                await asyncio.to_thread(change)
            finally:
                ended.set()
                await asyncio.gather(*readers)

    def change() -> None:
        late.start()
        began = time.monotonic()
        wait_until(lambda: late.ready(NODES - 1), "the late one to join", HEALED)
        wait_until(lambda: late.status()["records"] == share, f"{share} records on the late one", HEALED)
        wait_healed(built.living, REPLICAS * len(keys), began)
        print(f"the late one has its {share} records after {time.monotonic() - began:.1f} s")
        drain(drained)
        began = time.monotonic()
        wait_healed(built.living, REPLICAS * len(keys), began)

    with client.enter():
        asyncio.run(work())
    print(f"{reads} reads meanwhile, {len(failed)} failed")
    assert not failed
    assert not misplaced(built, keys, ids)


def drain(node: LabNode) -> None:
    """As `kdhtctl drain` does: hand all over, then stop."""
    wait_until(lambda: node.call("drain")["drained"], f"{node.name} to give all away", HEALED)
    assert node.stop() == 0


@pytest.mark.timeout(900)
def test_all_nodes_restart_at_once(built: Built) -> None:
    keys = names(2000)
    cluster, client = built
    put(client, cluster.nodes, keys)
    ids = ids_of(cluster.nodes)
    for node in cluster.nodes:
        node.kill()
    began = time.monotonic()
    for node in cluster.nodes:
        node.start()
    wait_until(lambda: all(is_ready(node) for node in cluster.nodes), "all to be ready again", HEALED)
    print(f"all ready after {time.monotonic() - began:.1f} s")
    assert not lost(client, cluster.nodes, keys)
    wait_healed(cluster.nodes, REPLICAS * len(keys), time.monotonic())
    assert not misplaced(built, keys, ids)


def is_ready(node: LabNode) -> bool:
    return node.ready(NODES - 1) and bool(node.status()["ready"])


def test_a_large_value_goes_in_and_out_with_loss(built: Built) -> None:
    cluster, client = built
    value = random.Random(7).randbytes(4 << 20)
    for node in cluster.nodes[:8]:
        node.host.lose(10)

    async def work() -> bytes:
        async with AsyncClient([str(node.address) for node in cluster.nodes[:8]]) as kdht:
            await kdht.put_large("large", value)
            return await kdht.get_large("large")

    with client.enter():
        began = time.monotonic()
        assert asyncio.run(work()) == value
        print(f"{len(value) >> 20} MiB in and out with 1 % loss: {time.monotonic() - began:.1f} s")
