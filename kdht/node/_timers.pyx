# cython: language_level=3
"""Virtual alarms: callbacks by time, and a token bucket. No clock: `now` is passed in.

`now` may be any clock in seconds that does not run backwards. In Cython, because a turn asks for the next
alarm as it ends, and each write keeps places.
"""

from heapq import heappop, heappush

Alarm = list
"""Time, serial number, callback. The callback is None once the alarm was cancelled or called."""


cdef class Timers:
    """Callbacks by time, for equal times in the order they were set. Cancelling costs nothing.

    A callback that raises goes to `faults`. The others are called all the same.
    """

    def __cinit__(self, faults):
        self.guard = faults.guard("an alarm")
        self.now = 0.0
        self.heap = []
        self.serial = 0

    cpdef list at(self, double when, callback, long place=0):
        """Call `callback(now)` at the first `run` whose `now` is `when` or later. `place`: one that was kept
        (`keep_places`)."""
        # Equal times keep their order, and the heap never compares callbacks.
        cdef list alarm = [when, place or self.keep_places(1), callback]
        heappush(self.heap, alarm)
        return alarm

    cpdef long keep_places(self, long count):
        """The first of `count` places, for alarms that may be set later: they ring as if set now."""
        cdef long first = self.serial + 1
        self.serial += count
        return first

    @staticmethod
    def cancel(list alarm not None):
        """Cancel the alarm. No effect after its call."""
        # It stays in the heap until its time: finding it there would cost more than all that cancelling
        # saves. Nearly all alarms are cancelled, by an answer.
        alarm[2] = None

    def run(self, double now):
        """Call all due callbacks. An alarm that a callback sets for `now` waits for the next run."""
        cdef list heap = self.heap, later = [], alarm
        # What callbacks set from now on has greater numbers. Running it at once could go on for ever.
        cdef long last = self.serial
        self.now = now
        while heap and <double>(<list>heap[0])[0] <= now:
            alarm = heappop(heap)
            if <long>alarm[1] > last:
                later.append(alarm)
            elif alarm[2] is not None:
                # Cleared first, so that a callback that cancels its own alarm does nothing.
                callback, alarm[2] = alarm[2], None
                with self.guard:
                    callback(now)
        for alarm in later:
            heappush(heap, alarm)

    cpdef next(self):
        """The time of the next alarm, or None."""
        cdef list heap = self.heap
        while heap and (<list>heap[0])[2] is None:
            heappop(heap)
        return (<list>heap[0])[0] if heap else None


class TokenBucket:
    """A rate with bursts of up to one second's worth, and of at least one."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        # A rate below 1 a second would else never collect a whole token.
        self._depth = max(rate, 1.0)
        self._tokens = self._depth
        self._then = 0.0

    def take(self, double now) -> bool:
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
