"""Gives the coordinator the time when its alarms are due, and nothing while none wait."""

import asyncio
import time

from kdht.node.replicas import Coordinator

LEAST_SECONDS = 0.005


class Ticker:
    """Ticks in `loop`. `wake` is for any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coordinator: Coordinator) -> None:
        self._loop = loop
        self._coordinator = coordinator
        self._next: asyncio.TimerHandle | None = None

    def wake(self, seconds: float) -> None:
        """Tick in so many seconds, sooner than was said. Nothing happens once the loop is closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arm, seconds)

    def _arm(self, seconds: float) -> None:
        when = self._loop.time() + max(seconds, LEAST_SECONDS)
        if self._next is not None:
            if self._next.when() <= when:
                return
            self._next.cancel()
        self._next = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._next = None
        seconds = self._coordinator.tick(time.time())
        if seconds is not None:
            self._arm(seconds)
