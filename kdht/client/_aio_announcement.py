"""Announcements that renew themselves on an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from kdht.client._announcement import pause
from kdht.errors import RequestError


class AsyncAnnouncement:
    """A membership that renews itself, as a task, until it is closed. Then it is withdrawn.

    `announce` is told whether it renews. `error` is the last renewal's, None if that was good.
    """

    def __init__(
        self,
        announce: Callable[[bool], Awaitable[object]],
        withdraw: Callable[[], Awaitable[object]],
        ttl: int,
    ) -> None:
        self.error: RequestError | None = None
        self._announce = announce
        self._withdraw = withdraw
        self._ttl = ttl
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Announce. Raises what that raises; renewals follow until `close`."""
        if self._task is None:
            await self._announce(False)
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(pause(self._ttl, failed=self.error is not None))
            try:
                # After a failure it is written in any case, also where a node of an older build knows of no renewals.
                await self._announce(self.error is None)
            except RequestError as error:
                self.error = error
            except Exception as error:
                # Without this task the membership would end: no descriptor or memory is left for a while, say.
                self.error = RequestError(f"not renewed: {error or type(error).__name__}")
            else:
                self.error = None

    async def close(self) -> None:
        """Stop renewing, and withdraw. May be called again."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        # That is the cancellation of the line before.
        with suppress(asyncio.CancelledError):
            await task
        # Nobody can do anything about it: the membership ends with its TTL.
        with suppress(RequestError):
            await self._withdraw()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
