"""A process of clients: `python -m histories.worker OPTIONS` with the options as JSON. SIGTERM ends it in peace."""

import asyncio
import random
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec

from histories.record import Recorder, now_ns
from histories.recording import TIMEOUT, Recorded, connect
from histories.workloads import WATCHED, WORKLOADS, Keys
from kdht import AsyncClient
from kdht.errors import RequestError

LEASE = 6
"""Of a watch, seconds. A renewal, after a third of it, finds missed changes."""


class Options(msgspec.Struct, frozen=True):
    name: str
    seed: int
    nodes: list[str]
    history: str
    clients: int
    pause_ms: float
    """A client's longest pause between two conversations."""
    keys: int
    generation: int
    watches: bool = False
    """Its clients watch, and do nothing else."""


async def _client(client: Recorded, rng: random.Random, options: Options, ended: asyncio.Event) -> None:
    workloads, weights = zip(*WORKLOADS.values(), strict=True)
    keys = Keys(options.keys, options.generation)
    while not ended.is_set():
        keys.conversations += 1
        (workload,) = rng.choices(workloads, weights)
        await workload(client, rng, keys)
        await asyncio.sleep(rng.random() * options.pause_ms / 1000)


async def run(options: Options) -> None:
    """Every third client is a blocking one, every fourth takes direct answers, every fourth reads from any replica; each
    asks nodes in its own order."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with Recorder(Path(options.history)) as recorder:
        if options.watches:
            await _watch_all(recorder, options, ended)
            return
        async with asyncio.TaskGroup() as group:
            for number in range(options.clients):
                rng = random.Random(f"{options.seed} {options.name} {number}")
                nodes = rng.sample(options.nodes, len(options.nodes))
                calls = connect(
                    nodes, blocking=number % 3 == 2, direct=number % 4 == 3, spread=number % 4 == 1
                )
                client = Recorded(f"{options.name}.{number}", calls, recorder)
                group.create_task(_closing(client, rng, options, ended))


async def _watch_all(recorder: Recorder, options: Options, ended: asyncio.Event) -> None:
    """Watch all keys for watches, by one client, until the end. A failed watch is started again."""
    calls = AsyncClient(options.nodes, timeout=TIMEOUT)
    client = Recorded(options.name, calls, recorder)
    async with calls:
        tasks = [
            asyncio.create_task(_watch(client, calls, f"{WATCHED}{number}")) for number in range(options.keys)
        ]
        await ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(client: Recorded, calls: AsyncClient, key: str) -> None:
    while True:
        since = now_ns()
        try:
            async with aclosing(calls.watch(key, lease=LEASE)) as told:
                async for record in told:
                    client.told(key, record, since)
        except RequestError:
            await asyncio.sleep(0.1)


async def _closing(client: Recorded, rng: random.Random, options: Options, ended: asyncio.Event) -> None:
    try:
        await _client(client, rng, options, ended)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Options)))
