"""Where the transport's thread leaves what is for this node: requests and control messages part here.

Routed messages are answered in the transport's own thread, by the service, and so are STORE
and FETCH, by the coordinator. Other control messages and unreachable addresses are for the node, which lives in the event loop: they
wait in bounded lines, and what does not fit is counted and dropped, as a full socket
buffer would do.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kdht.datapath.base import Datagram, Receiver
from kdht.node.sorting import by_receiver
from kdht.wire import Address

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_CONTROL = 4096
MAX_UNREACHABLE = 64
MAX_SILENT = 64


class Line(Generic[T]):
    """Hands things from any thread to `take`, which runs in `loop` and gets all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[list[T]], None], room: int) -> None:
        self._loop = loop
        self._take = take
        self._room = room
        self._lock = threading.Lock()
        self._waiting: list[T] = []
        self.overflowed = 0
        """Things that were dropped because too many waited."""

    def put(self, things: list[T]) -> None:
        """Add all for which there is room. Nothing happens once the loop is closed."""
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


class Inbox:
    """The transport's receiver and its `on_unreachable`; `connect` comes before the transport's start."""

    def connect(
        self,
        routed: Receiver,
        replicas: Receiver,
        on_unreachable: Callable[[Address], None],
        control: Line[Datagram],
        unreachable: Line[Address],
        silent: Line[Address],
    ) -> None:
        """Where things go; all but the lines are called on the transport's thread."""
        self._routed = routed
        self._replicas = replicas
        self._on_unreachable = on_unreachable
        self._control = control
        self._unreachable = unreachable
        self._silent = silent

    @property
    def overflowed(self) -> int:
        """Control messages that were dropped because too many waited."""
        return self._control.overflowed

    def receive(self, batch: list[Datagram]) -> None:
        """Sort a batch of local messages."""
        routed, replicas, control = by_receiver(batch)
        if control:
            self._control.put(control)
        if replicas:
            self._replicas(replicas)
        if routed:
            self._routed(routed)

    def for_the_node(self, batch: list[Datagram]) -> None:
        """Control messages that the coordinator took, and are not its own."""
        self._control.put(batch)

    def unreachable(self, address: Address) -> None:
        """ICMP said that nobody is there."""
        self._on_unreachable(address)
        self._unreachable.put([address])

    def silent(self, address: Address) -> None:
        """A request that is no control message of the node's had no answer in time."""
        self._silent.put([address])
