"""A Session on an event loop: its sockets, one timer for all deadlines, who waits for what."""

import asyncio
import socket

from kdht.client import _sockets as sockets
from kdht.client._calls import Answer, Call
from kdht.client._datagram import ANY_NODE
from kdht.client._session import Session
from kdht.client._steps import Flight, Many
from kdht.client._watching import Watching
from kdht.errors import RequestError

CLOSED = "the client is closed"


class Driver:
    """Everything happens in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, opened: sockets.Sockets, session: Session) -> None:
        self._loop = loop
        self._sockets = opened
        self._session = session
        self._waiting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        for node, sock in opened:
            loop.add_reader(sock, self._readable, node, sock)

    async def answer_to(self, call: Call) -> Answer:
        """Raises RequestError as `Exchange.result` does."""
        done = self._new_future()
        exchange = self._session.start(call, self._loop.time(), lambda *_: _set(done))
        try:
            self._go_on()
            await done
        finally:
            self._waiting.discard(done)
            self._session.forget(exchange)
        return exchange.result()

    async def do_many(self, many: Many) -> None:
        """Raises the first failure."""
        done = self._new_future()
        flight = Flight(self._session, many, lambda: _set(done))
        try:
            flight.start(self._loop.time())
            self._go_on()
            await done
        finally:
            self._waiting.discard(done)
            flight.end()
        if flight.error is not None:
            raise flight.error
        if not self._sockets:
            raise RequestError(CLOSED)

    def watch(self, call: Call, lease: int) -> Watching:
        self._check_open()
        watching = self._session.watch(call, lease, self._loop.time())
        self._go_on()
        return watching

    async def wait_for(self, watching: Watching) -> None:
        """Until it has an event or an error."""
        done = self._new_future()
        watching.on_event = lambda: _set(done)
        try:
            await done
        finally:
            self._waiting.discard(done)
        self._check_open()

    def end(self, watching: Watching) -> None:
        """Forget it, and give its lease up."""
        self._session.forget(watching)
        watching.end(self._loop.time())
        self._go_on()

    def close(self) -> None:
        for _, sock in self._sockets:
            self._loop.remove_reader(sock)
        self._sockets.close()
        if self._timer is not None:
            self._timer.cancel()
        for done in self._waiting:
            _set(done)

    def _check_open(self) -> None:
        if not self._sockets:
            raise RequestError(CLOSED)

    def _new_future(self) -> "asyncio.Future[None]":
        self._check_open()
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(done)
        return done

    def _go_on(self) -> None:
        """Send what is to be sent, and see to it that the next deadline counts."""
        outbox = self._session.outbox
        for send in outbox:  # it may grow on the way
            if not self._sockets.send(send):
                self._session.refused(send.node, self._loop.time())
        outbox.clear()
        wake = self._session.next_wake()
        if wake is not None and self._sockets and (self._timer is None or wake < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(wake, self._deadline_passed)

    def _deadline_passed(self) -> None:
        # The loop may call a little early, by its clock's resolution.
        due = self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        self._session.wake(max(self._loop.time(), due))
        self._go_on()

    def _readable(self, node: int, sock: socket.socket) -> None:
        for sender, data in self._sockets.arrived(node, sock):
            if data is None:
                self._session.refused(sender, self._loop.time())
            else:
                self._session.receive(sender, data, self._loop.time(), direct=node == ANY_NODE)
        self._go_on()


def _set(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
