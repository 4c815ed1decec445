"""Sets of 16 real daemons on loopback, under deaths, restarts and a cut: who announces is listed, who died or withdrew is not.

The whole sizes are those of KDHT_SETS=full: 1,000 announcers, 10,000 members to walk through, and one set with as many members as
it may have. Without it each number is smaller, and takes seconds.
"""

import asyncio
import math
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from random import Random

import pytest

from kdht import AsyncClient, Client
from kdht.errors import RequestError
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.wire.sets import MAX_MEMBERS

pytestmark = [pytest.mark.root, pytest.mark.slow]

FULL = os.environ.get("KDHT_SETS") == "full"
NODES = 16
ANNOUNCERS = 1000 if FULL else 100
WALKED = 10_000 if FULL else 1000
CHANGES_A_SECOND = 100
TTL = 30
PATIENT = 30.0
"""Seconds: the machine may have other work."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("cluster")
    with Cluster(places_on_loopback(NODES), home, datapath="socket") as cluster:
        yield cluster


def names_of(cluster: Cluster, *numbers: int) -> list[str]:
    return [str(cluster.nodes[number].address) for number in numbers]


async def all_of(work: list[Callable[[], Awaitable[object]]], at_once: int = 50) -> None:
    """Run these, some at once."""
    turns = asyncio.Semaphore(at_once)

    async def one(job: Callable[[], Awaitable[object]]) -> None:
        async with turns:
            await job()

    await asyncio.gather(*(one(job) for job in work))


async def listed(client: AsyncClient, name: str) -> set[bytes]:
    return {member.payload for member in await client.members(name, quorum=True)}


def test_announcers_are_listed_at_every_look_while_nodes_die_and_come_back(cluster: Cluster) -> None:
    """Half of them are soft. Of those that stop, nobody is listed beyond the TTL."""
    dying, chance = cluster.nodes[-2:], Random(1)
    entries = names_of(cluster, *range(NODES - 2))

    async def run() -> tuple[int, int]:
        live: set[bytes] = set()
        ends: dict[bytes, int] = {}
        looks = 0
        async with AsyncExitStack() as stack:
            writer, reader = [
                await stack.enter_async_context(AsyncClient(entries, timeout=PATIENT)) for _ in range(2)
            ]

            async def begin(number: int) -> None:
                payload = b"live %d" % number
                await asyncio.sleep(chance.uniform(0, 5))
                await stack.enter_async_context(
                    writer.announce("services", payload, TTL, soft=number % 2 == 0)
                )
                live.add(payload)

            async def once(number: int) -> None:
                payload = b"mortal %d" % number
                await writer.announce_once("services", payload, 10, soft=number % 2 == 0)
                # It arrived before now, and an expiry is a whole second.
                ends[payload] = math.ceil(time.time()) + 10

            begun = [asyncio.ensure_future(begin(number)) for number in range(ANNOUNCERS)]
            begun += [asyncio.ensure_future(once(number)) for number in range(20)]
            started = time.monotonic()
            killed = restarted = False
            while not restarted or time.monotonic() - started < 25:
                passed = time.monotonic() - started
                if not killed and passed > 6:
                    killed = True
                    for node in dying:
                        node.kill()
                elif not restarted and passed > 16:
                    restarted = True
                    for node in dying:
                        node.start()
                acknowledged, asked = set(live), time.time()
                found = await listed(reader, "services")
                assert acknowledged <= found, acknowledged - found
                assert not [payload for payload in found & ends.keys() if ends[payload] <= asked]
                looks += 1
                await asyncio.sleep(0.5)
            await asyncio.gather(*begun)
            assert len(live) == ANNOUNCERS
            assert await listed(reader, "services") == live
        return looks, len(ends)

    looks, mortals = asyncio.run(run())
    print(f"{ANNOUNCERS} announcers, {looks} looks")
    assert mortals == 20
    cluster.wait_ready()


def test_a_member_ends_in_the_same_second_through_every_node(cluster: Cluster) -> None:
    async def last_seen(entry: str) -> int:
        """The second in which it was seen last."""
        async with AsyncClient([entry], timeout=PATIENT) as client:
            last = 0
            while True:
                asked = time.time()
                if not await client.members("ending"):
                    return last
                last = int(asked)

    async def run() -> list[int]:
        async with AsyncClient(names_of(cluster, 0), timeout=PATIENT) as client:
            await client.announce_once("ending", b"short", 4)
        return await asyncio.gather(*(last_seen(entry) for entry in names_of(cluster, *range(NODES))))

    before = time.time()
    seen = asyncio.run(run())
    assert min(seen) >= int(before) + 3
    # One that asked at the end of the second before and was answered in time.
    assert max(seen) - min(seen) <= 1


def test_halves_have_the_union_when_they_meet_again(cluster: Cluster) -> None:
    left, right = range(NODES // 2), range(NODES // 2, NODES)
    before = [b"before %d" % number for number in range(20)]
    with Client(names_of(cluster, *left), timeout=PATIENT) as client:
        for payload in before:
            client.announce_once("halves", payload, 3600)
    port = cluster.nodes[0].address.port
    sides = [", ".join(cluster.nodes[number].address.host for number in side) for side in (left, right)]
    rules = "".join(
        f"ip saddr {{ {one} }} ip daddr {{ {other} }} udp sport {port} udp dport {port} drop\n"
        for one, other in (sides, sides[::-1])
    )
    nft(f"table inet halves {{\nchain input {{\ntype filter hook input priority 0\n{rules}}}\n}}\n")
    try:
        for side, numbers in ((b"left", left), (b"right", right)):
            with Client(names_of(cluster, *numbers), timeout=PATIENT, attempts=32) as client:
                for number in range(20):
                    client.announce_once("halves", b"%s %d" % (side, number), 3600, soft=number % 2 == 0)
                for number in range(10):
                    if (number % 2 == 0) == (side == b"left"):
                        client.withdraw("halves", before[number], 3600)
                # The cut is one: nobody has heard of the other side's.
                found = {member.payload for member in client.members("halves", quorum=True)}
                assert {payload.split()[0] for payload in found} - {b"before"} == {side}
    finally:
        nft("delete table inet halves\n")
    wanted = {b"%s %d" % (side, number) for side in (b"left", b"right") for number in range(20)}
    wanted |= set(before[10:])
    healed = time.monotonic()

    def seen_by_all() -> bool:
        try:
            return all(seen(name) == wanted for name in names_of(cluster, 0, NODES - 1))
        except RequestError:
            return False

    def seen(name: str) -> set[bytes]:
        with Client(name) as client:
            return {member.payload for member in client.members("halves", quorum=True)}

    wait_until(seen_by_all, "the union", 60)
    print(f"the union was there {time.monotonic() - healed:.1f} s after the cut")
    for _ in range(5):
        time.sleep(1)
        assert seen_by_all()
    cluster.wait_ready()


def test_a_walk_sees_all_who_stay_while_others_come_and_go(cluster: Cluster) -> None:
    staying = [b"%06d" % number for number in range(WALKED)]

    async def run() -> tuple[set[bytes], int, float]:
        names = names_of(cluster, *range(NODES))
        async with AsyncClient(names, timeout=PATIENT) as client, AsyncClient(names) as walker:
            await all_of(
                [
                    lambda payload=payload: client.announce_once("walked", payload, 3600, soft=True)
                    for payload in staying
                ]
            )
            changes, begun = 0, time.monotonic()
            turns = asyncio.Semaphore(100)

            async def change(number: int) -> None:
                """Every second one goes, who came some time ago."""
                nonlocal changes
                if number % 2 == 0:
                    await client.announce_once("walked", b"passing %d" % number, 600, soft=True)
                elif number > 20:
                    await client.withdraw("walked", b"passing %d" % (number - 21), 600)
                changes += 1
                turns.release()

            async def disturb() -> None:
                """So many a second, however long each takes."""
                async with asyncio.TaskGroup() as group:
                    for number in count():
                        await asyncio.sleep(begun + number / CHANGES_A_SECOND - time.monotonic())
                        await turns.acquire()
                        group.create_task(change(number))

            disturbing = asyncio.ensure_future(disturb())
            found: set[bytes] = set(staying)
            for quorum in (False, True, False):
                found &= {member.payload for member in await walker.members("walked", quorum=quorum)}
            seconds = time.monotonic() - begun
            assert not disturbing.done(), disturbing.result()
            disturbing.cancel()
            return found, changes, seconds

    found, changes, seconds = asyncio.run(run())
    print(f"{changes} came or went in {seconds:.1f} s, {changes / seconds:.0f} a second")
    assert found == set(staying)
    assert changes


@pytest.mark.timeout(1800)
def a_set_has_a_most_of_members(tmp_path: Path) -> None:
    """More are refused, with a status that says so."""
    places = places_on_loopback(1)

    async def run() -> None:
        async with AsyncClient([str(places[0].addresses[0])], timeout=PATIENT) as client:
            await all_of(
                [
                    lambda number=number: client.announce_once("most", b"%06d" % number, 86400, soft=True)
                    for number in range(MAX_MEMBERS)
                ]
            )
            assert (await client.members_page("most")).total == MAX_MEMBERS
            with pytest.raises(RequestError, match="no room") as refused:
                await client.announce_once("most", b"one more", 60, soft=True)
            assert refused.value.status == "FULL"
            # Who is there may renew and go, and another one come.
            await client.announce_once("most", b"000000", 86400, soft=True)
            assert await client.withdraw("most", b"000001")
            await client.announce_once("most", b"one more", 60, soft=True)
            assert len(await client.members("most")) == MAX_MEMBERS

    with Cluster(places, tmp_path, datapath="socket"):
        begun = time.monotonic()
        asyncio.run(run())
        print(f"{MAX_MEMBERS} members in {time.monotonic() - begun:.0f} s")


if FULL:
    # It takes minutes. tests/node/sets/test_set_index.py has the bound with a smaller number.
    test_a_set_has_a_most_of_members = a_set_has_a_most_of_members


def nft(rules: str) -> None:
    """In the network namespace of this process."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
