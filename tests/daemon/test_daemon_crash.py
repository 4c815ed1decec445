"""kill -9 of a daemon in the middle of PUTs, and a new start, again and again: what it confirmed is there, whole.

The node is alone, so that nobody else's disk can stand in for its own.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import DevNode, free_port

from kdht import AsyncClient
from kdht.errors import RequestError

WRITERS = 32
KEYS_EACH = 4
MAX_CONFIRMED = 300
"""Of one life."""


class Written:
    """What was asked for and what was confirmed, by key; a value is made of its generation and key alone."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.confirmed: dict[str, int] = {}

    def next(self, key: str) -> bytes:
        self.asked[key] = self.asked.get(key, 0) + 1
        return self.value(key, self.asked[key])

    def value(self, key: str, generation: int) -> bytes:
        part = f"{key}/{generation};".encode()
        return part * (1 + generation * len(key) * 37 % 60)

    def fault(self, key: str, found: bytes | None) -> str | None:
        """What is wrong with what a key has; a PUT that was not confirmed may have been done or not."""
        if found is None:
            return f"{key}: {self.confirmed[key]} was confirmed and is gone"
        generation = int(found.partition(b";")[0].rpartition(b"/")[2] or 0)
        if found != self.value(key, generation):
            return f"{key}: torn: {found!r}"
        if not self.confirmed[key] <= generation <= self.asked[key]:
            return f"{key}: {generation}, though {self.confirmed[key]} was confirmed"
        return None


async def write_until_killed(node: DevNode, written: Written, rng: random.Random) -> None:
    """All writers at once; the kill comes at a seeded moment after a seeded number of confirmations."""
    left, pause = rng.randrange(1, MAX_CONFIRMED), rng.random() * 0.005
    enough = asyncio.Event()

    async def writer(client: AsyncClient, number: int) -> None:
        nonlocal left
        while True:
            key = f"key {number}.{rng.randrange(KEYS_EACH)}"
            value = written.next(key)
            generation = written.asked[key]
            await client.put(key, value)
            written.confirmed[key] = generation
            left -= 1
            if left <= 0:
                enough.set()

    async with AsyncClient(node.listen) as client:
        writers = [asyncio.create_task(writer(client, number)) for number in range(WRITERS)]
        await asyncio.wait_for(enough.wait(), 60)
        await asyncio.sleep(pause)
        node.process.kill()
        for each in writers:
            each.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError | RequestError) for end in ended), ended


async def faults(node: DevNode, written: Written) -> list[str]:
    async with AsyncClient(node.listen) as client:
        found = await client.get_many(written.confirmed)
    return [text for key in written.confirmed if (text := written.fault(key, found.get(key)))]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DevNode]:
    started = DevNode(tmp_path / "node", f"127.0.0.1:{free_port('127.0.0.1')}")
    yield started
    started.close()


@pytest.mark.parametrize(
    ("seed", "kills"), [(1, 5), pytest.param(2, 100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_nothing_confirmed_is_missing_or_torn(node: DevNode, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    written = Written()
    for life in range(kills):
        node.wait_ready()
        assert asyncio.run(faults(node, written)) == [], f"after {life} kills"
        asyncio.run(write_until_killed(node, written, rng))
        node.process.communicate()
        node.start()
    node.wait_ready()
    assert asyncio.run(faults(node, written)) == []
    print(f"{kills} kills, {sum(written.asked.values())} PUTs asked for, {len(written.confirmed)} keys")
