"""Many requests in bursts: those of a large value's chunks. No I/O of its own and no clock.

    next call ---> burst ---> accepted answer -------------------------------> on_answer
                     |                                                             ^
                     '-- late, refused, or another answer --> Exchange of its own -'

Nearly every request is answered at its first try. So a first try costs little: one datagram through a BulkSocket, with
no timer, no hedge and no memory of versions. Whatever is not so simple becomes an ordinary request of the session, with all
its rules. It is another write then, with a greater version and the same content: chunks never change, so both are right.

The window follows loss. A loss on the way is no congestion as long as few are lost: a request crosses up to four links.
"""

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any, NamedTuple, Protocol

from kdht.client._calls import NOT_FOUND, Answer, Call
from kdht.client._exchange import Exchange
from kdht.client._nodes import RequestLatency
from kdht.client._session import Session
from kdht.wire import STATUS_OF
from kdht.wire._shared import Op, Status

# The window of other operations: a cluster takes so many at once from anybody.
FIRST_WINDOW = 64
LEAST_WINDOW = 16
# More do not make a cluster on one host faster; less than half of what the search for chunks looks past (_journal).
MOST_WINDOW = 256
MOST_LOST = 0.1
"""Share of a round's requests that may be lost until the window shrinks: 2 % loss on each of four links."""
SHRINK, GROW = 0.7, 1.25
MAX_BACKOFF = 8


class Bulk(NamedTuple):
    """Calls to make in bursts. `on_answer` gets each answer, in the order of arrival.

    `calls` may give None: not now, but ask again after the next answer.
    """

    calls: Iterable[Call | None]
    on_answer: Callable[[Call, Answer], None]
    insists: bool = False
    """Whether a majority is asked before NOT_FOUND is believed."""


class BurstSocket(Protocol):
    """A BulkSocket or its plain twin."""

    def __len__(self) -> int: ...
    @property
    def is_refused(self) -> bool: ...
    @property
    def oldest(self) -> float: ...
    def stage(self, message: bytes, tag: Any, now: float) -> None: ...
    def flush(self) -> None: ...
    def receive(self) -> list[tuple[Any, int, bytes, int, float]]: ...
    def take_late(self, before: float) -> list[Any]: ...
    def take_all(self) -> list[Any]: ...


class Window:
    """How many requests may be under way. A round is as many outcomes as the window has requests."""

    def __init__(self) -> None:
        self.size = FIRST_WINDOW
        self._outcomes = self._lost = 0

    def count(self, outcomes: int, lost: int) -> None:
        """So many requests had an outcome; `lost` of them were late or refused."""
        self._outcomes += outcomes
        self._lost += lost
        if self._outcomes < self.size:
            return
        if self._lost > MOST_LOST * self._outcomes:
            self.size = max(int(self.size * SHRINK), LEAST_WINDOW)
        else:
            self.size = min(int(self.size * GROW), MOST_WINDOW)
        self._outcomes = self._lost = 0


class Transfer:
    """A Bulk under way. `open_socket` gives the BurstSocket to a node, None if there is no route. The first failure ends it.

    The caller calls `received` when a socket has something to read, and `wake` at the time of `next_wake`.
    """

    def __init__(
        self,
        session: Session,
        bulk: Bulk,
        open_socket: Callable[[int], BurstSocket | None],
        on_done: Callable[[], None],
    ) -> None:
        self.error: Exception | None = None
        self.done = False
        self._session = session
        self._bulk = bulk
        self._left: Iterator[Call | None] | None = iter(bulk.calls)
        self._open_socket = open_socket
        self._on_done = on_done
        self._sockets: dict[int, BurstSocket | None] = {}
        self._exchanges: dict[Exchange, Call] = {}
        self._window = Window()
        self._latency = RequestLatency()
        # Doubled while nothing is answered in time: else a sudden delay would send everything twice, for ever.
        self._backoff = 1

    @property
    def _under_way(self) -> int:
        return len(self._exchanges) + sum(len(each) for each in self._sockets.values() if each is not None)

    @property
    def _wait(self) -> float:
        """Seconds until a first try is late."""
        return min(self._latency.rto * self._backoff, self._session.state.timeout / 2)

    def go_on(self, now: float) -> None:
        """Begin as many as may be under way."""
        self._fill(now)
        self._land()

    def received(self, node: int, now: float) -> None:
        """Take the answers of the socket to that node."""
        burst = self._sockets.get(node)
        if burst is None or self.done:
            return
        answers = burst.receive()
        if burst.is_refused:
            self._hand_over(burst.take_all(), now)
            self._session.refused(node, now)
        try:
            self._take(node, answers, now)
        except Exception as error:
            self.error = error
        self.go_on(now)

    def next_wake(self) -> float:
        """The earliest time at which a request may be late."""
        oldest = min((each.oldest for each in self._sockets.values() if each is not None), default=inf)
        return oldest + self._wait

    def wake(self, now: float) -> None:
        """Make requests that are late ordinary ones."""
        if self.done:
            return
        before = now - self._wait
        for burst in list(self._sockets.values()):
            late = burst.take_late(before) if burst is not None else []
            if late:
                self._backoff = min(self._backoff * 2, MAX_BACKOFF)
                self._hand_over(late, now)
        self.go_on(now)

    def end(self) -> None:
        """Forget what is under way."""
        for exchange in self._exchanges:
            self._session.forget(exchange)
        self._exchanges.clear()
        for burst in self._sockets.values():
            if burst is not None:
                burst.take_all()
        # The iterator may hold a file or a value.
        self.done, self._left = True, None

    def _take(self, node: int, answers: list[tuple[Any, int, bytes, int, float]], now: float) -> None:
        others: list[Call] = []
        for call, code, body, _, sent in answers:
            status = STATUS_OF.get(code)
            answer = (
                self._session.opened(call, Answer(status, body, now - sent)) if status is not None else None
            )
            if answer is not None and (answer.status is Status.OK or answer.status in call.accepts):
                self._settle(call, answer, now)
            else:
                others.append(call)
        if answers:
            call, _, _, cookie, sent = answers[-1]
            self._backoff = 1
            self._latency.sample(now - sent)
            self._session.heard(node, call.op, cookie, now - sent, now)
            self._window.count(len(answers) - len(others), 0)
        self._hand_over(others, now)

    def _hand_over(self, calls: list[Call], now: float) -> None:
        self._window.count(len(calls), len(calls))
        for call in calls:
            self._start(call, now)

    def _start(self, call: Call, now: float) -> None:
        try:
            self._exchanges[self._session.start(call, now, self._finished)] = call
        except Exception as error:
            self.error = error

    def _finished(self, exchange: Exchange, now: float) -> None:
        # The call as it was given: the exchange's own has the scope in its key already.
        call = self._exchanges.pop(exchange)
        try:
            self._settle(call, exchange.result(), now)
        except Exception as error:
            self.error = error
        self.go_on(now)

    def _settle(self, call: Call, answer: Answer, now: float) -> None:
        if answer.status is Status.NOT_FOUND and call.op is Op.GET and self._bulk.insists:
            # One replica lacks it. It may have been away when the value was written.
            self._start(call._replace(op=Op.QUORUM_GET, accepts=NOT_FOUND), now)
        else:
            self._bulk.on_answer(call, answer)

    def _fill(self, now: float) -> None:
        room = self._window.size - self._under_way
        if room <= 0 or self._left is None:
            return
        node = self._session.state.nodes.current
        if node not in self._sockets:
            self._sockets[node] = self._open_socket(node)
        burst = self._sockets[node]
        try:
            while room > 0 and self.error is None:
                call = next(self._left)
                if call is None:
                    break
                room -= 1
                if burst is None:
                    self._start(call, now)
                else:
                    burst.stage(self._session.prepared(call), call, now)
        except StopIteration:
            self._left = None
        except Exception as error:
            self.error = error
        if burst is not None:
            burst.flush()

    def _land(self) -> None:
        if not self.done and (self.error is not None or (self._left is None and not self._under_way)):
            self.end()
            self._on_done()
