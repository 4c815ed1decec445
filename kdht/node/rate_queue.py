"""A queue that sends at most at a given rate. Each kind of message has its own, so that none starves another.

Contract: a message leaves at once if there is a token, else in its turn. Messages that ended meanwhile are left out.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kdht.node._timers import Alarm, Timers, TokenBucket
from kdht.times import SteadyTime


class Passenger(Protocol):
    """An item of the queue. The queue sets `waiting`; the owner sets `ended`."""

    waiting: bool
    ended: bool


T = TypeVar("T", bound=Passenger)


class RateQueue(Generic[T]):
    """Calls `send(thing, now)` for each thing, at most `rate` times a second."""

    def __init__(self, rate: float, timers: Timers, send: Callable[[T, SteadyTime], None]) -> None:
        self.pending = 0
        """A count for the owner, who bounds it."""
        self._timers = timers
        self._send = send
        self._budget = TokenBucket(rate)
        self._waiting: deque[T] = deque()
        self._alarm: Alarm | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, thing: T, now: SteadyTime) -> None:
        """Send it, now or when the rate allows."""
        # Behind those that wait, even with a token left: the order is part of the contract.
        if self._waiting or not self._budget.take(now):
            thing.waiting = True
            self._waiting.append(thing)
            self._arm(now)
        else:
            self._send(thing, now)

    def _arm(self, now: SteadyTime) -> None:
        if self._alarm is None:
            self._alarm = self._timers.at(now + self._budget.wait(), self._go_on)

    def _go_on(self, now: SteadyTime) -> None:
        """The rate allows one more: the one that has waited longest."""
        self._alarm = None
        while self._waiting:
            # One that ended meanwhile takes no token.
            if not self._waiting[0].ended:
                if not self._budget.take(now):
                    self._arm(now)
                    return
                self._waiting[0].waiting = False
                self._send(self._waiting.popleft(), now)
            else:
                self._waiting.popleft()
