"""A node of the `kademlia` package: asyncio, values in memory."""

import asyncio
import json
import sys
import time
from typing import Any

from kademlia.network import Server

from bench.peers.nodes.lines import Arguments, arguments, say


class KademliaNode:
    """Requests as tasks of the node's own event loop, so many at a time."""

    def __init__(self, given: Arguments) -> None:
        self._given = given
        self._server = Server()

    async def run(self) -> None:
        """Join, and answer lines until there are no more."""
        await self._server.listen(self._given.own.port, interface=self._given.own.host)
        if self._given.bootstrap:
            await self._server.bootstrap([tuple(self._given.bootstrap)])
        reader = asyncio.StreamReader(limit=1 << 24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say("ready")
        while line := await reader.readline():
            asked = json.loads(line)
            say(json.dumps(await self._all(asked["do"], asked["numbers"], asked["outstanding"])))

    async def _all(self, do: str, numbers: list[int], outstanding: int) -> dict[str, Any]:
        latencies: list[float] = []
        failed = 0
        waiting = iter(numbers)

        async def work() -> None:
            nonlocal failed
            for number in waiting:
                begun = time.perf_counter()
                failed += not await self._one(do, number)
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(outstanding)))
        return {"latencies": latencies, "failed": failed, "seconds": time.perf_counter() - begun}

    async def _one(self, do: str, number: int) -> bool:
        """Whether all was well; an exception of the library's is a failure like others."""
        key, value = f"key-{number}", self._given.values[number]
        try:
            if do == "put":
                return bool(await self._server.set(key, value))
            return bool(await self._server.get(key) == value)
        except Exception as error:
            print(f"{do} {number}: {error!r}", file=sys.stderr)
            return False


if __name__ == "__main__":
    asyncio.run(KademliaNode(arguments()).run())
