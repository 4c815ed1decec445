"""Where the transport's thread leaves local messages: requests and replies part here.

Routed messages are answered in the transport's own thread, by the service. Control
messages belong to the node, which lives in the event loop: they wait in a bounded line,
and what does not fit is counted and dropped, as a full socket buffer would.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from kdht._shared import Reason
from kdht.datapath.base import Datagram, Receiver

log = logging.getLogger(__name__)

MAX_WAITING = 4096


class Inbox:
    """A Receiver. `routed` runs on the transport's thread, `control` in `loop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, routed: Receiver, control: Callable[[list[Datagram]], None]
    ) -> None:
        self._loop = loop
        self._routed = routed
        self._control = control
        self._lock = threading.Lock()
        self._waiting: list[Datagram] = []
        self.overflowed = 0
        """Control messages that were dropped because too many waited."""

    def __call__(self, batch: list[Datagram]) -> None:
        control = [datagram for datagram in batch if datagram.reason is Reason.CONTROL]
        routed = batch
        if control:
            self._put(control)
            routed = [datagram for datagram in batch if datagram.reason is not Reason.CONTROL]
        if routed:
            self._routed(routed)

    def _put(self, control: list[Datagram]) -> None:
        with self._lock:
            idle = not self._waiting
            room = MAX_WAITING - len(self._waiting)
            self._waiting += control[:room]
            self.overflowed += max(0, len(control) - room)
        if idle and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._control(batch)
        except Exception:
            log.exception("control messages failed")
