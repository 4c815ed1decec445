"""Many requests in bursts: those of a large value's chunks. No I/O of its own.

    next call ---> burst ---> accepted answer -------------------------------> on_answer
                     |                                                             ^
                     '-- late, refused, or another answer --> Exchange of its own -'
                                                                 ^         |
                                                                 |         '--> failed for want of time, room, replicas
                                                                 '-- a pause <--'

The time after which a request is late is a guess. So only a few become ordinary ones then, to find out. Answers to later
requests are proof that a request is lost. An overloaded cluster must not get everything twice: it would never end.

Nearly every request is answered at its first try. So a first try costs little: one datagram through a BulkSocket, with
no timer, no hedge and no memory of versions. Whatever is not so simple becomes an ordinary request of the session, with all
its rules. It is another write then, with a greater version and the same content: chunks never change, so both are right.

For the same reason a failed one is made again (_repeats), until no request of the transfer has been answered for the
client's time-out.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any, NamedTuple, Protocol

from kdht.client._calls import NOT_FOUND, Answer, Call
from kdht.client._exchange import Exchange
from kdht.client._nodes import MIN_RTO, RequestLatency
from kdht.client._repeats import Asked, Repeats, may_pass
from kdht.client._session import Session
from kdht.client._window import Window
from kdht.errors import RequestError, RequestTimeout
from kdht.wire import STATUS_OF
from kdht.wire._shared import Op, Status

MAX_BACKOFF = 8
PROBES = 4
"""Late requests that become ordinary ones at once, while nothing is answered."""
ORDINARY = 0.5
"""Ordinary requests at once, as a part of the window. They have retries, so they are the larger load."""
# Answers overtake each other: one that many later ones overtook is lost, most likely.
OVERTAKEN = 0.5
"""So much later than a late request, as a part of its usual time, another was sent that has its answer: it is lost."""


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
    def take_late(self, before: float, most: int = ...) -> list[Any]: ...
    def take_all(self) -> list[Any]: ...


class Transfer:
    """A Bulk under way. `open_socket` gives the BurstSocket to a node, None if there is no route. The first failure that is
    no passing one ends it. `clock` gives the time that the caller's `now` is.

    The caller calls `received` when a socket has something to read, and `wake` at the time of `next_wake`.
    """

    def __init__(
        self,
        session: Session,
        bulk: Bulk,
        open_socket: Callable[[int], BurstSocket | None],
        on_done: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.error: Exception | None = None
        self.done = False
        self._session = session
        self._bulk = bulk
        self._left: Iterator[Call | None] | None = iter(bulk.calls)
        self._open_socket = open_socket
        self._on_done = on_done
        self._clock = clock
        self._sockets: dict[int, BurstSocket | None] = {}
        self._exchanges: dict[Exchange, tuple[Asked, float]] = {}
        """Each with the time of its beginning."""
        self._queue: deque[Asked] = deque()
        """Those that are to become ordinary requests."""
        self._repeats = Repeats(session.state.rng)
        self._begun = 0
        self._window = Window()
        self._latency = RequestLatency()
        # Doubled while nothing is answered in time: else a sudden delay would send everything twice, for ever.
        self._backoff = 1
        self._progressed_at = clock()
        """When a request was last answered. What the source and `on_answer` take does not count as time without progress."""
        self._why: Exception | None = None
        """The last failure since then."""

    @property
    def _under_way(self) -> int:
        in_bursts = sum(len(each) for each in self._sockets.values() if each is not None)
        return len(self._exchanges) + len(self._queue) + len(self._repeats) + in_bursts

    @property
    def _wait(self) -> float:
        """Seconds until a first try is late, if nothing else is known."""
        return min(self._latency.rto * self._backoff, self._session.state.timeout / 2)

    def go_on(self, now: float) -> None:
        """Begin as many as may be under way."""
        self._start_queued(now)
        self._fill(now)
        self._land()

    def received(self, node: int, now: float) -> None:
        """Take the answers of the socket to that node."""
        burst = self._sockets.get(node)
        if burst is None or self.done:
            return
        self._read(node, burst, now)
        self.go_on(now)

    def next_wake(self) -> float:
        """The earliest time at which a request may be late, or is to be made again, or none has been answered for too long."""
        oldest = min((each.oldest for each in self._sockets.values() if each is not None), default=inf)
        stalled = self._progressed_at + self._session.state.timeout if self._under_way else inf
        return min(oldest + self._wait, self._repeats.next_due, stalled)

    def wake(self, now: float) -> None:
        """Make requests that are late ordinary ones, and begin failed ones anew. Give up if there is no progress."""
        if self.done:
            return
        # Answers that came while the program was blocked are in time.
        for node, burst in list(self._sockets.items()):
            while burst is not None and self._read(node, burst, now):
                pass
        before = now - self._wait
        for burst in list(self._sockets.values()):
            late = burst.take_late(before, PROBES) if burst is not None else []
            if late:
                self._backoff = min(self._backoff * 2, MAX_BACKOFF)
                self._window.silence()
                self._hand_over(late)
        self._queue.extend(self._repeats.take_due(now))
        if self._under_way and now >= self._progressed_at + self._session.state.timeout:
            self._give_up()
        self.go_on(now)

    def end(self) -> None:
        """Forget what is under way."""
        for exchange in self._exchanges:
            self._session.forget(exchange)
        self._exchanges.clear()
        self._queue.clear()
        self._repeats = Repeats(self._session.state.rng)
        for burst in self._sockets.values():
            if burst is not None:
                burst.take_all()
        # The iterator may hold a file or a value.
        self.done, self._left = True, None

    # --- Answers

    def _read(self, node: int, burst: BurstSocket, now: float) -> bool:
        """Take what waits in the socket, at most a batch; whether there was something."""
        answers = burst.receive()
        if burst.is_refused:
            self._hand_over(burst.take_all())
            self._session.refused(node, now)
        try:
            self._take(node, burst, answers, now)
        except Exception as error:
            self.error = error
        return bool(answers) and self.error is None

    def _take(
        self, node: int, burst: BurstSocket, answers: list[tuple[Any, int, bytes, int, float]], now: float
    ) -> None:
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
            if len(others) < len(answers):
                self._progressed()
            self._overtake(max(each[4] for each in answers), now)
        self._hand_over(others)

    def _overtake(self, sent: float, now: float) -> None:
        """A request that was sent then has its answer: those that were sent well before it are lost.

        As in RACK (RFC 8985): no timer is needed while others are answered, and a pause of the whole cluster loses nothing.
        """
        usual = max(self._latency.late, MIN_RTO)
        before = min(now - usual, sent - usual * OVERTAKEN)
        for burst in self._sockets.values():
            if burst is not None and burst.oldest < before:
                self._hand_over(burst.take_late(before))

    def _settle(self, call: Call, answer: Answer, now: float) -> None:
        if answer.status is Status.NOT_FOUND and call.op is Op.GET and self._bulk.insists:
            # One replica lacks it. It may have been away when the value was written.
            self._queue.append(Asked(call._replace(op=Op.QUORUM_GET, accepts=NOT_FOUND)))
        else:
            self._bulk.on_answer(call, answer)

    def _progressed(self) -> None:
        self._progressed_at, self._why = self._clock(), None

    # --- Ordinary requests

    def _hand_over(self, calls: list[Call]) -> None:
        self._window.count(len(calls), len(calls))
        self._queue.extend(map(Asked, calls))

    def _start_queued(self, now: float) -> None:
        most = max(int(self._window.size * ORDINARY), PROBES)
        while self._queue and len(self._exchanges) < most and self.error is None:
            asked = self._queue.popleft()
            try:
                self._exchanges[self._session.start(asked.call, now, self._finished)] = asked, now
            except Exception as error:
                self.error = error

    def _finished(self, exchange: Exchange, now: float) -> None:
        # The call as it was given: the exchange's own has the scope in its key already.
        asked, begun = self._exchanges.pop(exchange)
        try:
            answer = exchange.result()
        except RequestError as error:
            self._failed(asked, error, now)
        else:
            self._repeats.answered(asked)
            try:
                self._settle(asked.call, answer, now)
            except Exception as error:
                self.error = error
            self._progressed()
            self._overtake(begun, now)
        self.go_on(now)

    def _failed(self, asked: Asked, error: RequestError, now: float) -> None:
        if not may_pass(error):
            self.error = error
            return
        self._why = error
        self._window.count(1, 1)
        self._repeats.failed(asked, self._begun, now)

    # --- The end

    def _give_up(self) -> None:
        """No request was answered for the client's time-out."""
        oldest = next(iter(self._exchanges), None)
        reason = oldest.reason if oldest is not None else None
        self.error = self.error or self._why or reason or RequestTimeout("no answer within the time-out")

    def _fill(self, now: float) -> None:
        room = min(self._window.size - self._under_way, self._repeats.room(self._begun))
        if room <= 0 or self._left is None:
            return
        node = self._session.state.nodes.current
        if node not in self._sockets:
            self._sockets[node] = self._open_socket(node)
        burst = self._sockets[node]
        if not self._under_way:
            self._progressed()
        before = self._clock()
        try:
            while room > 0 and self.error is None:
                call = next(self._left)
                if call is None:
                    break
                room -= 1
                self._begun += 1
                if burst is None:
                    self._queue.append(Asked(call))
                else:
                    # The time now: the source may have kept us waiting.
                    burst.stage(self._session.prepared(call), call, self._clock())
        except StopIteration:
            self._left = None
        except Exception as error:
            self.error = error
        self._progressed_at += self._clock() - before
        if burst is not None:
            burst.flush()
        else:
            self._start_queued(now)

    def _land(self) -> None:
        if not self.done and (self.error is not None or (self._left is None and not self._under_way)):
            self.end()
            self._on_done()
