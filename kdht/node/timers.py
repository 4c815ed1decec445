"""Virtual alarms: callbacks by time, and a token bucket. No clock: `now` is passed in.

`now` may be any clock in seconds that does not run backwards.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, TypeAlias

from kdht.faults import Faults
from kdht.times import SteadyTime

Alarm: TypeAlias = list[Any]
"""Time, serial number, callback. The callback is None once the alarm was cancelled or called."""


class Timers:
    """Callbacks by time, for equal times in the order they were set. Cancelling costs nothing.

    A callback that raises goes to `faults`. The others are called all the same.
    """

    def __init__(self, faults: Faults) -> None:
        self._guard = faults.guard("an alarm")
        self.now = SteadyTime(0.0)
        """The time of the last `run`, or a later one that the owner has set."""
        self._heap: list[Alarm] = []
        self._serial = 0

    def at(self, when: float, callback: Callable[[SteadyTime], None], place: int = 0) -> Alarm:
        """Call `callback(now)` at the first `run` whose `now` is `when` or later. `place`: one that was kept (`keep_places`)."""
        # Equal times keep their order, and the heap never compares callbacks.
        alarm: Alarm = [when, place or self.keep_places(1), callback]
        heappush(self._heap, alarm)
        return alarm

    def keep_places(self, count: int) -> int:
        """The first of `count` places, for alarms that may be set later: they ring as if they were set now."""
        first = self._serial + 1
        self._serial += count
        return first

    @staticmethod
    def cancel(alarm: Alarm) -> None:
        """Cancel the alarm. No effect after its call."""
        # It stays in the heap until its time: finding it there would cost more than all that cancelling saves.
        # Nearly all alarms are cancelled, by an answer.
        alarm[2] = None

    def run(self, now: SteadyTime) -> None:
        """Call all due callbacks. An alarm that a callback sets for `now` waits for the next run."""
        self.now = now
        heap = self._heap
        # What callbacks set from now on has greater numbers. Running it at once could go on for ever.
        last = self._serial
        later = []
        while heap and heap[0][0] <= now:
            alarm = heappop(heap)
            if alarm[1] > last:
                later.append(alarm)
            elif alarm[2] is not None:
                # Cleared first, so that a callback that cancels its own alarm does nothing.
                callback, alarm[2] = alarm[2], None
                with self._guard:
                    callback(now)
        for alarm in later:
            heappush(heap, alarm)

    def next(self) -> float | None:
        """The time of the next alarm, or None."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heappop(heap)
        return heap[0][0] if heap else None


class TokenBucket:
    """A rate with bursts of up to one second's worth, and of at least one."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        # A rate below 1 a second would else never collect a whole token.
        self._depth = max(rate, 1.0)
        self._tokens = self._depth
        self._then = 0.0

    def take(self, now: SteadyTime) -> bool:
        """Take a token. False if there is none."""
        self._tokens = min(self._depth, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait(self) -> float:
        """Seconds, above zero, from the last `take` until there is a token."""
        return max((1.0 - self._tokens) / self._rate, 1e-6)
