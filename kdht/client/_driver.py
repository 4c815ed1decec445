"""A Session on an event loop: its sockets, one timer for all deadlines, and the futures of those who wait."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Any, TypeVar

from kdht.client import _sockets as sockets
from kdht.client._bulk import BulkSocket
from kdht.client._calls import Answer, Call
from kdht.client._pump import Pump
from kdht.client._session import Session
from kdht.client._steps import AsyncStep, AsyncSteps, Flight, Flow, Many, Wait
from kdht.client._transfer import Bulk, Transfer
from kdht.client._watch import WatchExchange
from kdht.errors import RequestError

CLOSED = "the client is closed"

T = TypeVar("T")


class ClientDriver:
    """Use it only in the loop's thread, and in the process that made it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        infos: Iterable[sockets.Info],
        make_session: Callable[[sockets.Sockets], Session],
        *,
        direct: bool,
    ) -> None:
        self._loop = loop
        self._pid = os.getpid()
        self._sockets = sockets.Sockets(
            infos, direct=direct, on_open=self._listen, on_close=loop.remove_reader
        )
        self._session = make_session(self._sockets)
        self._pump = Pump(self._sockets, self._session, loop.time)
        self._waiting: set[asyncio.Future[None]] = set()
        self._told: dict[WatchExchange, asyncio.Event] = {}
        """Set when the watch has an event or an error, or the client is closed."""
        self._clearing: set[asyncio.Task[None]] = set()
        """Cancelled operations, which delete what they have written."""
        self._transfers: dict[Transfer, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, operation: AsyncSteps[T]) -> T:
        """Carry out an operation's steps until it returns."""
        step: Callable[[], AsyncStep] = partial(next, operation)
        try:
            while True:
                wanted = step()
                try:
                    given = await self._do(wanted)
                except Exception as error:
                    step = partial(operation.throw, error)
                except BaseException as error:
                    self._interrupt(operation, error)
                    raise
                else:
                    step = partial(operation.send, given)
        except StopIteration as end:
            result: T = end.value
            return result

    def _interrupt(self, operation: AsyncSteps[Any], error: BaseException) -> None:
        """Nobody waits for it any more. It deletes in the background what it has written."""
        # GeneratorExit would end the operation's generator at once, and its clean-up with it.
        what = asyncio.CancelledError() if isinstance(error, GeneratorExit) else error
        try:
            wanted = operation.throw(what)
        except BaseException:
            return  # it has nothing to delete
        # A task on a loop that ends would never run, and Python would complain about it.
        if self._sockets and self._loop.is_running():
            task = self._loop.create_task(self._clear_away(operation, wanted))
            self._clearing.add(task)
            # Until then the set keeps the task alive: the loop itself holds tasks weakly.
            task.add_done_callback(self._clearing.discard)

    async def _clear_away(self, operation: AsyncSteps[Any], wanted: AsyncStep) -> None:
        with suppress(Exception, asyncio.CancelledError):  # StopIteration among them
            while True:
                try:
                    given = await self._do(wanted)
                except Exception as error:
                    wanted = operation.throw(error)
                else:
                    wanted = operation.send(given)

    async def _do(self, wanted: AsyncStep) -> Any:
        if isinstance(wanted, Call):
            return await self.answer_to(wanted)
        if isinstance(wanted, Wait):
            return await wanted.begin()
        if isinstance(wanted, Many):
            await self.do_many(wanted)
        elif isinstance(wanted, Bulk):
            async with self._transfer(wanted):
                pass
        else:
            await self._do_flow(wanted)
        return None

    async def answer_to(self, call: Call) -> Answer:
        """The answer to one request. Raises RequestError as `Exchange.result` does."""
        done = self._new_future()
        exchange = self._session.start(call, self._loop.time(), lambda *_: _set(done))
        try:
            self._go_on()
            await done
        finally:
            self._waiting.discard(done)
            # Also after a cancellation: a late answer must find nobody.
            self._session.forget(exchange)
        return exchange.result()

    async def do_many(self, many: Many) -> None:
        """Make many calls. Raises the first failure, and RequestError if the client is closed meanwhile."""
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

    @asynccontextmanager
    async def _transfer(self, bulk: Bulk) -> AsyncGenerator[tuple[Transfer, "asyncio.Future[None]"], None]:
        """A Bulk under way, and its end; what the block does goes on beside it. Raises as `do_many` does."""
        done = self._new_future()
        sockets: list[socket.socket] = []

        def open_socket(node: int) -> BulkSocket | None:
            sock = self._sockets.open_bulk(node)
            if sock is None:
                return None
            sockets.append(sock)
            self._loop.add_reader(sock, self._burst_arrived, transfer, node)
            return BulkSocket(sock.fileno())

        transfer = Transfer(self._session, bulk, open_socket, lambda: _set(done), self._loop.time)
        self._transfers[transfer] = done
        try:
            transfer.go_on(self._loop.time())
            self._go_on()
            yield transfer, done
            await done
        finally:
            self._waiting.discard(done)
            del self._transfers[transfer]
            transfer.end()
            for sock in sockets:
                if os.getpid() == self._pid:
                    self._loop.remove_reader(sock)
                sock.close()
        if transfer.error is not None:
            raise transfer.error
        if not self._sockets:
            raise RequestError(CLOSED)

    async def _do_flow(self, flow: Flow) -> None:
        """Take one part while the one before is sent. The source is asked no more after a failure."""
        feed = Feed()
        async with aclosing(flow.parts), self._transfer(Bulk(feed, flow.on_answer)) as (transfer, done):  # type: ignore[type-var]
            async for part in flow.parts:
                feed.give(part)
                transfer.go_on(self._loop.time())
                self._go_on()
                while feed.has_some and not done.done():
                    waiting = asyncio.ensure_future(feed.used_up.wait())
                    await asyncio.wait((waiting, done), return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                if done.done():
                    return
            feed.close()
            transfer.go_on(self._loop.time())

    def _burst_arrived(self, transfer: Transfer, node: int) -> None:
        transfer.received(node, self._loop.time())
        self._go_on()

    def watch(self, call: Call, lease: int, kind: type[WatchExchange] = WatchExchange) -> WatchExchange:
        """Begin a watch; `lease` is in seconds. Raises RequestError if the client is closed."""
        self._check_open()
        told = asyncio.Event()
        watch = self._session.watch(call, lease, self._loop.time(), told.set, kind)
        self._told[watch] = told
        self._go_on()
        return watch

    async def wait_for(self, watch: WatchExchange) -> None:
        """Wait until the watch has an event or an error. Raises RequestError if the client is closed meanwhile."""
        self._check_open()
        told = self._told[watch]
        told.clear()
        await told.wait()
        self._check_open()

    def end(self, watch: WatchExchange) -> None:
        """Forget a watch, and give its lease up."""
        del self._told[watch]
        if os.getpid() == self._pid:
            self._session.forget(watch)
            watch.end(self._loop.time())
            self._go_on()

    async def close(self) -> None:
        """Wait for cancelled operations to delete what they wrote; then close the sockets and wake all who wait."""
        try:
            if self._clearing and os.getpid() == self._pid:
                await asyncio.wait(self._clearing)
        finally:
            self._close()

    def _close(self) -> None:
        if os.getpid() == self._pid:  # after a fork this would change the first process's epoll
            for _, sock in self._sockets:
                self._loop.remove_reader(sock)
        self._sockets.close()
        if self._timer is not None:
            self._timer.cancel()
        for done in self._waiting:
            _set(done)
        for told in self._told.values():
            told.set()

    def _check_open(self) -> None:
        sockets.check_process(self._pid)
        if not self._sockets:
            raise RequestError(CLOSED)

    def _listen(self, node: int, sock: socket.socket) -> None:
        self._loop.add_reader(sock, self._readable, node, sock)

    def _new_future(self) -> "asyncio.Future[None]":
        self._check_open()
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(done)
        return done

    def _go_on(self) -> None:
        """Send what is in the outbox, and set the timer for the next deadline."""
        self._pump.send()
        wake = self._session.next_wake()
        for transfer in self._transfers:
            wake = min(transfer.next_wake(), inf if wake is None else wake)
        # A timer that is too early does no harm: it finds nothing due. Setting it anew for each request would
        # cost more.
        if (
            wake is not None
            and wake < inf
            and self._sockets
            and (self._timer is None or wake < self._timer.when())
        ):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(wake, self._deadline_passed)

    def _deadline_passed(self) -> None:
        # The loop may call a little early, by its clock's resolution.
        due = self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        now = max(self._loop.time(), due)
        # Answers that came while the loop was blocked are in time.
        if self._session.is_due(now):
            self._pump.read_all()
            self._session.wake(now)
        for transfer in list(self._transfers):
            if transfer.next_wake() <= now:
                transfer.wake(now)
        self._go_on()

    def _readable(self, node: int, sock: socket.socket) -> None:
        self._pump.read(node, sock)
        self._go_on()


class Feed:
    """The calls of a Flow, as they come: an iterator that gives None while it waits for more."""

    def __init__(self) -> None:
        self.used_up = asyncio.Event()
        """Set while it has none."""
        self.used_up.set()
        self._part: Iterator[Call] = iter(())
        self._is_over = False

    @property
    def has_some(self) -> bool:
        return not self.used_up.is_set()

    def give(self, part: Iterable[Call]) -> None:
        """The next ones, once the others are used up."""
        self._part = iter(part)
        self.used_up.clear()

    def close(self) -> None:
        """There are no more."""
        self._is_over = True

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Call | None:
        call = next(self._part, None)
        if call is None:
            self.used_up.set()
            if self._is_over:
                raise StopIteration
        return call


def _set(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
