"""Both clients, and the ten lines of docs/protocol.md, against a real cluster on loopback.

client --> 127.0.0.1 .. 127.0.0.4, four kdhtd with the socket datapath, no root
"""

import asyncio
import random
import re
from pathlib import Path

import pytest

from kdht import AsyncClient, Client
from kdht import _shared as shared
from kdht.errors import NotFound, ValueTooLarge
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.wire import hash_key

NODES = 4
PROTOCOL = Path(__file__).parent.parent / "docs" / "protocol.md"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(places_on_loopback(NODES), tmp_path_factory.mktemp("cluster"), datapath="socket") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def names(cluster):
    return [str(node.address) for node in cluster.nodes]


def values_of(seed: int, count: int) -> dict[str, bytes]:
    """Keys with values of all sizes that there may be."""
    rng = random.Random(seed)
    sizes = [0, 1, shared.MAX_VALUE, *(rng.randint(0, shared.MAX_VALUE) for _ in range(count - 3))]
    return {f"{seed}/{number}": rng.randbytes(size) for number, size in enumerate(sizes)}


def test_what_one_node_stores_every_node_gets(names):
    values = values_of(1, 40)
    with Client(names[0]) as writer:
        for key, value in values.items():
            writer.put(key, value)
    for name in names:
        with Client(name) as reader:
            assert {key: reader.get(key) for key in values} == values


def test_a_record_has_its_version_and_what_is_left_of_its_ttl(names):
    with Client(names[0]) as client:
        first = client.put("versions", b"1", ttl=3600)
        second = client.put("versions", b"2", ttl=3600)
        record = client.get_record("versions")
    assert first < second == record.version
    assert record.value == b"2"
    assert 0 < record.ttl <= 3600


def test_delete(names):
    with Client(names) as client:
        client.put("gone", b"")
        assert [client.delete("gone"), client.delete("gone")] == [True, False]
        with pytest.raises(NotFound):
            client.get("gone")


def test_a_large_value_takes_one_cookie_per_client(names):
    value = bytes(shared.MAX_VALUE)
    with Client(names[0]) as client:
        client.put("large", value)
    with Client(names[1]) as client:
        assert client._session.cookie == 0
        assert client.get("large") == value
        assert client._session.cookie != 0
        with pytest.raises(ValueTooLarge):
            client.get("large", max_value=100)


def test_a_trace_ends_at_the_owner(names, cluster):
    own = {node.address for node in cluster.nodes}
    owners = set()
    for number in range(20):
        paths = []
        for name in names:
            with Client(name) as client:
                paths.append(client.trace(f"trace {number}"))
        assert all(path[-1].owner and not any(hop.owner for hop in path[:-1]) for path in paths)
        assert {hop.contact.address for path in paths for hop in path} <= own
        assert [str(path[0].contact.address) for path in paths] == names
        (owner,) = {path[-1].contact for path in paths}
        owners.add(owner)
    assert len(owners) > 1


def test_a_thousand_values_at_once(names):
    values = values_of(2, 1000)

    async def run():
        async with AsyncClient(names[0], timeout=60) as writer, AsyncClient(names[1:], timeout=60) as reader:
            versions = await writer.put_many(values)
            assert versions.keys() == values.keys()
            assert await reader.get_many([*values, "not there"]) == values

    asyncio.run(run())


def test_ten_lines_get_it_too(names):
    block = re.search(r"<!-- ten-line-get -->\n```python\n(.*?)```", PROTOCOL.read_text(), re.DOTALL)[1]
    lines: dict[str, object] = {}
    exec(compile(block, str(PROTOCOL), "exec"), lines)
    values = {f"ten/{key}": value for key, value in values_of(3, 10).items()}
    with Client(names[0]) as client:
        for key, value in values.items():
            client.put(key, value)
    for name in names:
        host, _, port = name.rpartition(":")
        got = {key: lines["get"](hash_key(key), host, int(port), timeout=30) for key in values}
        assert got == values
        assert lines["get"](hash_key("not there"), host, int(port), timeout=30) is None


def test_a_dead_entry_node_is_left_for_another(tmp_path):
    """The values that the others own are still there; those of the dead node went with it."""
    with Cluster(places_on_loopback(3), tmp_path, datapath="socket") as cluster:
        names = [str(node.address) for node in cluster.nodes]
        with Client(names) as client:
            keys = [
                key
                for key in map(str, range(30))
                if client.trace(key)[-1].contact.address != cluster.nodes[0].address
            ]
            for key in keys:
                client.put(key, key.encode())
            cluster.nodes[0].kill()
            assert {key: client.get(key) for key in keys} == {key: key.encode() for key in keys}
    assert keys
