"""How long a caller may keep the server waiting: some seconds, which it earns back with each byte that it sends or takes.

So one byte a second does not hold a connection, and a long transfer over a slow line goes on. Only the caller's own time counts, not
the cluster's.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

# A lossy network may pause so long.
GRACE_SECONDS = 20.0
# The slowest link that is served. Whoever sends slower holds memory for too long.
BYTES_PER_SECOND = 4096

T = TypeVar("T")


class Pace:
    """Of one request or one answer."""

    def __init__(self) -> None:
        self._left_s = GRACE_SECONDS

    def moved(self, size_bytes: int) -> None:
        """The caller sent or took so many."""
        # No more than at the start: what the kernel's buffers took at once must not pay for an hour of silence.
        self._left_s = min(self._left_s + size_bytes / BYTES_PER_SECOND, GRACE_SECONDS)

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Wait for the caller. Raises TimeoutError once it is too slow."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                return await awaited
        finally:
            self._left_s -= loop.time() - begin
