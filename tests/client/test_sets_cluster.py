"""Sets through both clients, against real daemons on loopback.

client --> 127.0.0.1 .. 127.0.0.4, four kdhtd with the socket datapath, no root
"""

import asyncio
import time
from contextlib import aclosing, closing

import pytest

from kdht import AsyncClient, Client
from kdht.errors import BadArgument, ValueTooLarge
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.wire.sets import MAX_PAYLOAD

NODES = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(places_on_loopback(NODES), tmp_path_factory.mktemp("cluster"), datapath="socket") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def names(cluster):
    return [str(node.address) for node in cluster.nodes]


def payloads(client, name, **how):
    return sorted(member.payload for member in client.members(name, **how))


def test_members_are_seen_through_every_node_until_they_withdraw(names):
    with Client(names[0]) as client:
        for number in range(3):
            client.announce_once("few", b"%d" % number, ttl=60)
    for name in names:
        with Client(name) as client:
            assert payloads(client, "few", quorum=True) == payloads(client, "few") == [b"0", b"1", b"2"]
            assert all(0 < member.ttl <= 60 for member in client.members("few"))
    with Client(names[1]) as client:
        assert [client.withdraw("few", b"1", ttl=60), client.withdraw("few", b"1", ttl=60)] == [True, False]
    with Client(names[2]) as client:
        assert payloads(client, "few", quorum=True) == [b"0", b"2"]


def test_a_set_and_a_value_have_the_same_name_and_nothing_else_in_common(names):
    with Client(names) as client:
        assert client.members("both") == []
        client.put("both", b"value")
        client.announce_once("both", b"member")
        assert client.get("both") == b"value"
        client.delete("both")
        assert payloads(client, "both") == [b"member"]


def test_a_renewal_changes_the_payload_of_the_same_member(names):
    with Client(names) as client:
        first = client.announce_once("moved", b"10.0.0.1:80", member="web-1")
        assert client.announce_once("moved", b"10.0.0.2:80", member="web-1") > first
        assert payloads(client, "moved", quorum=True) == [b"10.0.0.2:80"]


def test_a_member_ends_with_its_ttl_at_every_node(names):
    with Client(names) as client:
        client.announce_once("short", b"x", ttl=1)
        assert payloads(client, "short", quorum=True) == [b"x"]
        time.sleep(2.1)  # the expiry is a whole second, at most one behind the TTL
        for name in names:
            with Client(name) as other:
                assert payloads(other, "short") == payloads(other, "short", quorum=True) == []


MANY = [b"%06d" % number for number in range(400)]


def announce_many(names, name):
    """A set of `MANY`, which fills several datagrams."""

    async def announce():
        async with AsyncClient(names) as client:
            for first in range(0, len(MANY), 50):
                batch = MANY[first : first + 50]
                await asyncio.gather(*(client.announce_once(name, each, ttl=600) for each in batch))

    asyncio.run(announce())


def test_a_walk_sees_all_of_a_set_that_fills_many_datagrams(names):
    announce_many(names, "many")
    with Client(names[0]) as client:
        assert payloads(client, "many", quorum=True) == payloads(client, "many") == MANY
        samples = [client.members("many", sample=True) for _ in range(60)]
        assert all(40 <= len(sample) <= 55 for sample in samples)
        assert payloads(client, "many", most=400) == MANY
        assert 40 <= len(client.members("many", most=399)) <= 55
        assert len(client.members("many", most=10)) == 10
        seen = {member.payload for sample in samples for member in sample}
        assert len(seen) > 0.9 * len(MANY)


def test_an_announcement_renews_itself_until_it_is_closed(names):
    with Client(names[0]) as client, Client(names[1]) as reader:
        with client.announce("living", b"me", ttl=2) as announcement:
            time.sleep(3.5)
            assert payloads(reader, "living", quorum=True) == [b"me"]
            assert announcement.error is None
        assert payloads(reader, "living", quorum=True) == []
        announcement.close()


def test_an_announcement_on_an_event_loop(names):
    async def run():
        async with AsyncClient(names) as client:
            async with client.announce("living too", b"me", ttl=2):
                await asyncio.sleep(3.5)
                during = await client.members("living too", quorum=True)
            return during, await client.members("living too", quorum=True)

    during, after = asyncio.run(run())
    assert [member.payload for member in during] == [b"me"]
    assert after == []


def test_a_watch_tells_who_comes_changes_and_goes(names):
    with (
        Client(names[0]) as client,
        Client(names[1]) as watching,
        closing(watching.watch_members("watched")) as states,
    ):

        def following():
            return [member.payload for member in next(states)]

        assert following() == []
        client.announce_once("watched", b"a", ttl=60)
        assert following() == [b"a"]
        client.announce_once("watched", b"b", ttl=60, member="other")
        assert sorted(following()) == [b"a", b"b"]
        client.announce_once("watched", b"a", ttl=60)  # a renewal is no change
        client.announce_once("watched", b"c", ttl=60, member="other")
        assert sorted(following()) == [b"a", b"c"]
        client.withdraw("watched", b"a", ttl=60)
        assert following() == [b"c"]


def test_a_watch_sees_a_silent_end(names):
    with Client(names[0]) as client, closing(client.watch_members("ending")) as states:
        assert next(states) == []
        client.announce_once("ending", b"short", ttl=2)
        assert [member.payload for member in next(states)] == [b"short"]
        begun = time.monotonic()
        assert next(states) == []
        assert (
            time.monotonic() - begun < 6
        )  # the TTL, its last second, and a walk; a renewal comes after 10 s


def test_a_watch_of_many_pages(names):
    announce_many(names, "pages")

    async def run():
        async with AsyncClient(names) as client, aclosing(client.watch_members("pages")) as states:
            first = await anext(states)
            await client.announce_once("pages", b"new", ttl=600)
            return first, await anext(states)

    first, second = asyncio.run(run())
    assert len(first) == 400
    assert {member.payload for member in second} - {member.payload for member in first} == {b"new"}


def test_wrong_arguments_are_refused_before_anything_is_sent(names):
    with Client(names) as client:
        with pytest.raises(ValueTooLarge):
            client.announce("set", bytes(MAX_PAYLOAD + 1))
        for ttl in (0, 86401):
            with pytest.raises(BadArgument):
                client.announce_once("set", b"", ttl=ttl)
        assert client.members("set") == []


def test_a_kill_of_all_nodes_loses_no_soft_member(cluster, names):
    expected = [b"%02d" % number for number in range(20)]
    with Client(names) as client:
        for payload in expected:
            client.announce_once("soft", payload, ttl=600, soft=True)
        assert payloads(client, "soft", quorum=True) == expected
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    with Client(names) as client:
        wait_until(lambda: payloads(client, "soft", quorum=True) == expected, "the members", 30)


def test_members_survive_the_death_of_a_node_and_come_back_to_it(cluster, names):
    with Client(names) as client:
        for number in range(20):
            client.announce_once("surviving", b"%02d" % number, ttl=600)
    expected = [b"%02d" % number for number in range(20)]
    victim = cluster.nodes[0]
    victim.kill()
    try:
        with Client(names[1:]) as client:
            assert payloads(client, "surviving", quorum=True) == expected
            client.withdraw("surviving", b"00", ttl=600)
    finally:
        victim.start()
    cluster.wait_ready()
    with Client(names[0]) as client:
        wait_until(lambda: payloads(client, "surviving") == expected[1:], "the node has what it missed", 30)


def test_a_hot_set_is_answered_in_the_loop_and_every_change_is_seen_at_once(cluster, names):
    def answered_in_the_loop() -> int:
        return sum(node.stats()["datapaths"]["socket"]["cache_answers"] for node in cluster.nodes)

    with Client(names) as client, Client(names) as reader:
        expected = set()
        before = answered_in_the_loop()
        for number in range(30):
            payload = b"%02d" % number
            client.announce_once("hot", payload, ttl=600, soft=number % 2 == 0)
            expected.add(payload)
            if number % 3 == 2:
                client.withdraw("hot", b"%02d" % (number - 1), ttl=600)
                expected.remove(b"%02d" % (number - 1))
            for how in ({}, {"sample": True}):
                for _ in range(3):
                    assert set(payloads(reader, "hot", **how)) == expected
        # Of three equal questions the second and the third.
        assert answered_in_the_loop() - before > 100
        client.announce_once("hot ends", b"x", ttl=2)
        while payloads(reader, "hot ends"):
            pass
        assert all(0 < member.ttl <= 600 for member in reader.members("hot"))
