"""Requests under way: their IDs, time-outs, retries, and which answer belongs to which.

Contract: an answer counts if its request ID, operation, source address and, where it is
known, sender's ID are those of a request that still waits. Every request ends once, in its
`done`: with the reply, or with None after its last transmission timed out. The number of
requests and the rate of transmissions are bounded.

All transmissions of a request share its ID and are numbered in `attempt`, which the answer
repeats: so a retry's round-trip time is known too, where TCP must leave it out (Karn).
"""

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random

from kdht._shared import Op
from kdht.node.messages import Reply
from kdht.node.options import Options
from kdht.node.timers import Alarm, Timers, TokenBucket
from kdht.wire import Address, Message

MAX_ATTEMPT = 255


class Rpc:
    """One request. `id` is the ID that must answer, or None while it is unknown."""

    __slots__ = ("address", "alarm", "done", "id", "key", "op", "request_id", "sent", "timeout", "tries")

    def __init__(
        self,
        op: Op,
        key: bytes,
        address: Address,
        id: bytes | None,
        done: "Done",
        *,
        tries: int,
        timeout: float,
    ) -> None:
        self.op = op
        self.key = key
        self.address = address
        self.id = id
        self.done = done
        self.tries = tries
        self.timeout = timeout
        self.request_id = 0
        self.sent: list[float] = []
        """When each transmission left."""
        self.alarm: Alarm | None = None


Done = Callable[[Rpc, Reply | None, float], None]
"""The end of a request: with its reply, or None if it failed; and `now`."""


class Mismatch(Exception):
    """Why an answer belongs to no request: the name of a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Rpcs:
    """All requests under way.

    `transmit(rpc, now)` sends the request once more; `missed(rpc, now)` hears of each
    transmission that had no answer in time, before it is repeated or given up.
    """

    def __init__(
        self,
        options: Options,
        rng: Random,
        timers: Timers,
        counters: Counter[str],
        transmit: Callable[[Rpc, float], None],
        missed: Callable[[Rpc, float], None],
    ) -> None:
        self._options = options
        self._rng = rng
        self._timers = timers
        self._counters = counters
        self._transmit = transmit
        self._missed = missed
        self._pending: dict[int, Rpc] = {}
        self._unsent: deque[Rpc] = deque()
        self._budget = TokenBucket(options.request_rate)
        self._refill: Alarm | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def start(self, rpc: Rpc, now: float) -> bool:
        """Send it, now or when the rate allows; False, and `done` is never called, if too many wait."""
        if len(self._pending) >= self._options.max_pending:
            self._counters["pending_full"] += 1
            return False
        rpc.request_id = self._fresh_id()
        rpc.tries = min(rpc.tries, MAX_ATTEMPT)
        self._pending[rpc.request_id] = rpc
        self._send(rpc, now)
        return True

    def match(self, message: Message, source: Address, sender: bytes, now: float) -> tuple[Rpc, float]:
        """The request that this answers, which then waits no more, and the round-trip time.

        Raises Mismatch, and nothing has changed.
        """
        rpc = self._pending.get(message.request_id)
        if rpc is None:
            raise Mismatch("unmatched")
        if rpc.address != source:
            raise Mismatch("wrong_address")
        if rpc.op is not message.op or rpc.key != message.key or message.attempt >= len(rpc.sent):
            raise Mismatch("unmatched")
        if rpc.id is not None and rpc.id != sender:
            raise Mismatch("wrong_id")
        self._end(rpc)
        return rpc, now - rpc.sent[message.attempt]

    def _fresh_id(self) -> int:
        while (request_id := self._rng.getrandbits(64)) in self._pending:
            pass
        return request_id

    def _send(self, rpc: Rpc, now: float) -> None:
        if self._unsent or not self._budget.take(now):
            self._unsent.append(rpc)
            if self._refill is None:
                self._refill = self._timers.at(now + self._budget.wait(), self._send_waiting)
            return
        rpc.sent.append(now)
        rpc.alarm = self._timers.at(now + rpc.timeout, partial(self._expired, rpc))
        self._counters["requests_sent" if len(rpc.sent) == 1 else "repeats_sent"] += 1
        self._transmit(rpc, now)

    def _send_waiting(self, now: float) -> None:
        """The rate allows one more: the one that has waited longest."""
        self._refill = None
        waiting, self._unsent = self._unsent, deque()
        while waiting:
            rpc = waiting.popleft()
            if self._pending.get(rpc.request_id) is rpc:
                self._send(rpc, now)
            if self._unsent:
                break
        self._unsent.extend(waiting)

    def _expired(self, rpc: Rpc, now: float) -> None:
        self._counters["timeouts"] += 1
        self._missed(rpc, now)
        if len(rpc.sent) < rpc.tries:
            rpc.timeout = min(2 * rpc.timeout, self._options.max_timeout)
            self._send(rpc, now)
            return
        self._end(rpc)
        rpc.done(rpc, None, now)

    def _end(self, rpc: Rpc) -> None:
        del self._pending[rpc.request_id]
        if rpc.alarm is not None:
            self._timers.cancel(rpc.alarm)
