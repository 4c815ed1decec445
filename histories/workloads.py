"""What clients do: each workload is one short conversation about one key, drawn from a seeded generator."""

import random
from collections.abc import Awaitable, Callable

from histories import counters
from histories.recording import Recorded

WATCHED = "watched-"
"""What the keys that are watched begin with."""

Workload = Callable[[Recorded, random.Random, "Keys"], Awaitable[None]]


class Keys:
    """How many keys there are of each kind; few, so that clients meet.

    A history is searched key by key: after `generation` conversations a client goes on to new keys.
    """

    def __init__(self, count: int, generation: int) -> None:
        self.count = count
        self.generation = generation
        self.conversations = 0

    def draw(self, kind: str, rng: random.Random) -> str:
        return f"{kind}-{self.conversations // self.generation}-{rng.randrange(self.count)}"


async def register(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """PUT of a value of its own, QUORUM_GET or GET."""
    key = keys.draw("register", rng)
    chance = rng.random()
    if chance < 0.4:
        await client.put(key, client.mark())
    else:
        await client.read(key, quorum=chance < 0.75)


async def counter(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """One more than the value of a quorum read, on the condition that its version is still current."""
    key = keys.draw("counter", rng)
    read = await client.read(key, quorum=True)
    if read.outcome == "ok":
        await client.put(key, f"{counters.count(read.value or '0') + 1} {client.mark()}", read.version)
    elif read.outcome == "not_found":
        await client.put(key, f"1 {client.mark()}", 0)


async def deletion(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """Values that come and go: deleted with and without condition, and made again."""
    key = keys.draw("deleted", rng)
    chance = rng.random()
    if chance < 0.25:
        await client.put(key, client.mark())
    elif chance < 0.4:
        await client.delete(key)
    elif chance < 0.55:
        read = await client.read(key, quorum=True)
        if read.outcome == "ok":
            await client.delete(key, read.version)
    elif chance < 0.65:
        await client.put(key, client.mark(), 0)
    else:
        await client.read(key, quorum=chance < 0.9)


async def creation(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """A race: several clients create the same key, on the condition that there is none."""
    key = f"{keys.draw('created', rng)}-{keys.conversations // 20}"
    await client.put(key, client.mark(), 0)
    await client.read(key, quorum=rng.random() < 0.7)


async def session(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """One client alone with its key: it sees its own writes and deletions."""
    key = f"{keys.draw('session', rng)}-{client.name}"
    chance = rng.random()
    if chance < 0.75:
        await client.put(key, client.mark())
    else:
        await client.delete(key)
    for _ in range(3):
        await client.read(key, quorum=False)


async def watched(client: Recorded, rng: random.Random, keys: Keys) -> None:
    """Values for watches; never deleted."""
    await client.put(f"{WATCHED}{rng.randrange(keys.count)}", client.mark())


WORKLOADS: dict[str, tuple[Workload, int]] = {
    "register": (register, 35),
    "counter": (counter, 20),
    "deletion": (deletion, 20),
    "creation": (creation, 10),
    "session": (session, 15),
    "watched": (watched, 5),
}
"""Each with its weight."""
