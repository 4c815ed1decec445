"""The asyncio client: any number of requests at once on one socket for each node."""

import asyncio
import heapq
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from kdht import _shared as shared
from kdht.client import _calls as calls
from kdht.client import _sockets as sockets
from kdht.client._calls import Answer, Call, Hop, Key
from kdht.client._exchange import Exchange, Send, Session
from kdht.errors import NotFound, RequestError, RequestTimeout
from kdht.wire import Buffer, Record

CLOSED = "the client is closed"
BURST = 64
"""Datagrams read before the event loop gets its turn again."""
WINDOW = 64
"""Requests at once of `get_many` and `put_many`."""


class AsyncClient:
    """Gets and puts values through any of `nodes`, as `Client` does, from one event loop.

    Names are looked up and sockets opened with the first request: it may raise ConfigError,
    or RequestError without a route. A request that is cancelled is forgotten.
    """

    def __init__(self, nodes: str | Sequence[str], *, timeout: float = 5.0, attempts: int = 8) -> None:
        """Raises ConfigError for limits and nodes that make no sense."""
        sockets.check_limits(timeout, attempts)
        self._nodes = sockets.node_list(nodes)
        self._limits = (timeout, attempts)
        self._opening = asyncio.Lock()
        self._driver: _Driver | None = None
        self._closed = False

    async def get(self, key: Key, *, max_value: int = shared.MAX_VALUE) -> bytes:
        """The value, of at most `max_value` bytes; raises NotFound, ValueTooLarge."""
        driver = self._driver or await self._open()
        return calls.record(await driver.answer_to(calls.get(key, max_value))).value

    async def get_record(self, key: Key, *, max_value: int = shared.MAX_VALUE) -> Record:
        """The value with its version and what is left of its TTL; raises as `get` does."""
        driver = self._driver or await self._open()
        return calls.record(await driver.answer_to(calls.get(key, max_value)))

    async def put(self, key: Key, value: Buffer, ttl: int | None = None) -> int:
        """Store a value of at most 1104 bytes, for `ttl` seconds or without end; its version.

        Raises ValueTooLarge before anything is sent. A repeated try may store it twice, under
        two versions.
        """
        call = calls.put(key, value, ttl)
        driver = self._driver or await self._open()
        return calls.record(await driver.answer_to(call)).version

    async def delete(self, key: Key) -> bool:
        """Delete the value; whether there was one. A repeated try may find its own work done."""
        driver = self._driver or await self._open()
        return (await driver.answer_to(calls.delete(key))).status is shared.Status.OK

    async def trace(self, key: Key, *, max_hops: int = shared.HOP_LIMIT) -> list[Hop]:
        """The nodes on the key's way, the entry node first; ends where one does not answer."""
        driver = self._driver or await self._open()
        path: list[Hop] = []
        while calls.goes_on(path, max_hops):
            try:
                path.append(calls.hop(await driver.answer_to(calls.trace(key, len(path) + 1))))
            except RequestTimeout:
                path.append(calls.hop(None))
        return path

    async def get_many(self, keys: Iterable[Key], *, window: int = WINDOW) -> dict[Key, bytes]:
        """The values of those keys that have one, `window` requests at once.

        The first failure other than NotFound is raised, and what is under way is given up.
        """
        found: dict[Key, bytes] = {}

        async def get(key: Key) -> None:
            try:
                found[key] = await self.get(key)
            except NotFound:
                return

        await _for_each(keys, get, window)
        return found

    async def put_many(
        self, values: Mapping[Key, Buffer], ttl: int | None = None, *, window: int = WINDOW
    ) -> dict[Key, int]:
        """Store all values, `window` requests at once; their versions. The first failure is raised."""
        versions: dict[Key, int] = {}

        async def put(key: Key) -> None:
            versions[key] = await self.put(key, values[key], ttl)

        await _for_each(values, put, window)
        return versions

    async def close(self) -> None:
        """Close the sockets and fail what is under way; may be called again."""
        self._closed = True
        if self._driver is not None:
            self._driver.close()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> "_Driver":
        async with self._opening:
            if self._closed:
                raise RequestError(CLOSED)
            if self._driver is None:
                timeout, attempts = self._limits
                opened = sockets.connect_all(await _resolve(self._nodes))
                session = Session(len(opened), timeout=timeout, attempts=attempts, rng=random.SystemRandom())
                self._driver = _Driver(asyncio.get_running_loop(), opened, session)
            return self._driver


class _Driver:
    """A Session on an event loop: sockets, one timer for all deadlines, who waits for what."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, opened: list[socket.socket], session: Session
    ) -> None:
        self._loop = loop
        self._sockets = opened
        self._session = session
        self._waiting: dict[int, tuple[Exchange, asyncio.Future[None]]] = {}
        # Deadlines that no longer hold stay in the heap until they come to its top.
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        for node, sock in enumerate(opened):
            loop.add_reader(sock, self._readable, node, sock)

    async def answer_to(self, call: Call) -> Answer:
        if not self._sockets:
            raise RequestError(CLOSED)
        now = self._loop.time()
        exchange = self._session.open(call, now)
        done = self._loop.create_future()
        self._waiting[exchange.number] = exchange, done
        try:
            self._go_on(exchange, exchange.start(now))
            await done
        finally:
            del self._waiting[exchange.number]
            self._session.close(exchange)
        return exchange.result()

    def close(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = []
        if self._timer is not None:
            self._timer.cancel()
        for _, done in self._waiting.values():
            if not done.done():
                done.set_result(None)

    def _go_on(self, exchange: Exchange, send: Send | None) -> None:
        """Send what a step of the exchange gave, and see to it that its next step comes."""
        if send is not None and not sockets.send(self._sockets[send.node], send.data):
            self._session.silent(send.node)
        if not exchange.done:
            heapq.heappush(self._deadlines, (exchange.deadline, exchange.number))
            if self._timer is None or exchange.deadline < self._timer.when():
                self._set_timer()
            return
        done = self._waiting[exchange.number][1]
        if not done.done():
            done.set_result(None)

    def _set_timer(self) -> None:
        """For the earliest deadline, whether it still holds or not."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._deadlines:
            self._timer = self._loop.call_at(self._deadlines[0][0], self._deadlines_passed)

    def _deadlines_passed(self) -> None:
        # The loop may call a little early, by its clock's resolution.
        now = max(self._loop.time(), self._deadlines[0][0])
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, number = heapq.heappop(self._deadlines)
            exchange, _ = self._waiting.get(number, (None, None))
            if exchange is not None and not exchange.done and exchange.deadline == deadline:
                self._go_on(exchange, exchange.timed_out(now))
        self._set_timer()

    def _readable(self, node: int, sock: socket.socket) -> None:
        for _ in range(BURST):
            data = sockets.receive(sock)
            if data is None:
                return
            if not data:
                self._session.silent(node)
                continue
            step = self._session.receive(node, data, self._loop.time())
            if step is not None:
                self._go_on(*step)


async def _for_each(keys: Iterable[Key], work: Callable[[Key], Awaitable[None]], window: int) -> None:
    """`work` on every key, `window` at a time; the first exception ends all."""
    left = iter(keys)

    async def worker() -> None:
        for key in left:
            await work(key)

    workers = [asyncio.create_task(worker()) for _ in range(max(window, 1))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _resolve(nodes: Iterable[tuple[str, int]]) -> list[sockets.Info]:
    """All addresses of all nodes, in order; raises ConfigError."""
    loop = asyncio.get_running_loop()
    infos: list[sockets.Info] = []
    for host, port in nodes:
        try:
            infos += await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise sockets.unresolved(host, error) from None
    return infos
