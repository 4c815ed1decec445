"""Operations of several requests: generators that both clients run.

An operation yields a Call and is sent its Answer. Or it yields Many calls, and goes on when all are answered. A failure
is raised where it yielded. So an operation is written once, and each client only knows how to wait.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from kdht.client import _calls as calls
from kdht.client._arguments import MAX_WINDOW, Key, whole_number
from kdht.client._calls import Answer, Call, Hop
from kdht.client._exchange import Exchange
from kdht.client._session import Session
from kdht.client._transfer import Bulk
from kdht.errors import RequestTimeout
from kdht.wire import Buffer
from kdht.wire._shared import Status

T = TypeVar("T")
K = TypeVar("K", bound=Key)

# Enough to keep a cluster busy at a few milliseconds a request, and few enough not to overrun the buffer of one
# socket.
WINDOW = 64
"""Requests under way at once."""


class Many(NamedTuple):
    """Calls to make, `window` at once. `on_answer` gets each answer, in the order of arrival."""

    calls: Iterable[Call]
    on_answer: Callable[[Call, Answer], None]
    window: int = WINDOW


class Wait(NamedTuple):
    """Something to wait for that is no request. Only the asyncio client can."""

    begin: Callable[[], Awaitable[Any]]


class Flow(NamedTuple):
    """Calls to make in bursts, as they arrive. Only the asyncio client can."""

    parts: AsyncIterator[Iterable[Call]]
    """At most two are held at a time."""
    on_answer: Callable[[Call, Answer], None]


Step: TypeAlias = Call | Many | Bulk
AsyncStep: TypeAlias = Step | Wait | Flow
Steps: TypeAlias = Generator[Step, Any, T]
AsyncSteps: TypeAlias = Generator[AsyncStep, Any, T]
"""An operation of the asyncio client alone."""


class Flight:
    """Many calls under way on a session. The first failure ends it."""

    def __init__(self, session: Session, many: Many, on_done: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self.done = False
        self._session = session
        self._left = iter(many.calls)
        self._on_answer = many.on_answer
        self._on_done = on_done
        self._window = many.window
        self._flying: set[Exchange] = set()

    def start(self, now: float) -> None:
        """Begin as many as may be under way at once."""
        for _ in range(self._window):
            if not self._next(now):
                break
        self._land()

    def end(self) -> None:
        """Forget what is under way."""
        # Their late answers must start no more calls.
        for exchange in self._flying:
            self._session.forget(exchange)
        self._flying.clear()
        self.done = True

    def _next(self, now: float) -> bool:
        try:
            call = next(self._left, None)
            if call is None:
                return False
            exchange = self._session.start(call, now, self._finished)
        except Exception as error:
            self.error = error
            return False
        self._flying.add(exchange)
        return True

    def _finished(self, exchange: Exchange, now: float) -> None:
        # Before the answer is looked at: a callback that raises must not leave the request in the set.
        self._flying.discard(exchange)
        try:
            self._on_answer(exchange.call, exchange.result())
        except Exception as error:
            self.error = error
        if self.error is None:
            self._next(now)
        self._land()

    def _land(self) -> None:
        if not self.done and (self.error is not None or not self._flying):
            self.end()
            self._on_done()


def put(key: Key, value: Buffer, ttl: int | None, if_version: int | None) -> Steps[int]:
    """Returns the new version. Raises Conflict if the condition does not hold."""
    return calls.record((yield calls.put(key, value, ttl, if_version))).version


def delete(key: Key, if_version: int | None) -> Steps[bool]:
    """Returns whether there was a value. Raises Conflict if the condition does not hold."""
    answer = yield calls.delete(key, if_version)
    return bool(answer.status is Status.OK)


def trace(key: Key, max_hops: int) -> Steps[list[Hop]]:
    """The nodes on the route to a key; ends at one that does not answer."""
    path: list[Hop] = []
    while calls.goes_on(path, max_hops):
        try:
            path.append(calls.hop((yield calls.trace(key, len(path) + 1))))
        except RequestTimeout:
            path.append(calls.hop(None))
    return path


def get_many(keys: Iterable[K], window: int) -> Steps[dict[K, bytes]]:
    """The values of the keys that have one."""
    most = whole_number("window", window, 1, MAX_WINDOW)
    found: dict[Key, bytes] = {}

    def take(call: Call, answer: Answer) -> None:
        if answer.status is Status.OK:
            found[call.name] = calls.record(answer).value

    yield Many((calls.get(key)._replace(accepts=calls.NOT_FOUND) for key in keys), take, most)
    return cast("dict[K, bytes]", found)


def put_many(values: Iterable[tuple[K, Buffer]], ttl: int | None, window: int) -> Steps[dict[K, int]]:
    """The versions of the new values."""
    most = whole_number("window", window, 1, MAX_WINDOW)
    versions: dict[Key, int] = {}

    def take(call: Call, answer: Answer) -> None:
        versions[call.name] = calls.record(answer).version

    yield Many((calls.put(key, value, ttl) for key, value in values), take, most)
    return cast("dict[K, int]", versions)
