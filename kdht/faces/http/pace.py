"""How long a caller may keep the server waiting: some seconds in all, and more for each byte that it sends or takes.

So one byte a second does not hold a connection, and a long transfer over a slow line goes on. Only the caller's own time counts, not
the cluster's.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

GRACE_SECONDS = 20.0
BYTES_PER_SECOND = 4096

T = TypeVar("T")


class Pace:
    """Of one request or one answer."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._moved_bytes = 0

    def moved(self, size_bytes: int) -> None:
        """The caller sent or took so many."""
        self._moved_bytes += size_bytes

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Wait for the caller. Raises TimeoutError once it took too long in all."""
        loop = asyncio.get_running_loop()
        left = GRACE_SECONDS + self._moved_bytes / BYTES_PER_SECOND - self._waited_s
        begin = loop.time()
        try:
            async with asyncio.timeout(left):
                return await awaited
        finally:
            self._waited_s += loop.time() - begin
