"""Input from other threads for the node in the event loop.

The queues are bounded. Items beyond that are counted and dropped, as with a full socket buffer.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kdht.daemon.driver import Driver
from kdht.datapath.base import Datagram
from kdht.wire import Address

log = logging.getLogger(__name__)

T = TypeVar("T")

# Messages that wait for the event loop. Those behind it would be answered too late anyway, and are asked
# again.
MAX_CONTROL = 4096
# Addresses. One closed port is reported many times; a few of each are enough.
MAX_UNREACHABLE = 64
# As for closed ports: the probe asks such a node again by itself.
MAX_SILENT = 64


class Line(Generic[T]):
    """A queue from any thread to `take`. It runs in `loop` and gets all waiting items at once. At most `room` wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[list[T]], None], room: int) -> None:
        self._loop = loop
        self._take = take
        self._room = room
        self._lock = threading.Lock()
        self._waiting: list[T] = []
        self.overflowed = 0
        """Items dropped because too many waited."""

    def put(self, things: list[T]) -> None:
        """Add as many as there is room for. No-op once the loop is closed."""
        with self._lock:
            idle = not self._waiting
            room = self._room - len(self._waiting)
            self._waiting += things[:room]
            self.overflowed += max(0, len(things) - room)
        if idle and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        with self._lock:
            things, self._waiting = self._waiting, []
        try:
            self._take(things)
        except Exception:
            log.exception("messages for the node failed")


class NodeQueue:
    """The daemon's NodeInput."""

    def __init__(self, loop: asyncio.AbstractEventLoop, driver: Driver) -> None:
        self._control = Line(loop, driver.receive, MAX_CONTROL)
        self._unreachable = Line(loop, driver.unreachable, MAX_UNREACHABLE)
        self._silent = Line(loop, driver.silent, MAX_SILENT)

    @property
    def overflowed(self) -> int:
        """Control messages dropped because too many waited."""
        return self._control.overflowed

    def control(self, batch: list[Datagram]) -> None:
        self._control.put(batch)

    def unreachable(self, address: Address) -> None:
        self._unreachable.put([address])

    def silent(self, address: Address) -> None:
        self._silent.put([address])
