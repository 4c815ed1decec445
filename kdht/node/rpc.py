"""Requests under way: their IDs, time-outs and retries, and the matching of answers.

Contract: an answer counts if its request ID, operation and source address are those of a waiting request, and also the
sender's ID if that is known. Every request ends once, in its `done`: with the reply, or with None after its last
transmission timed out. The number of requests and the rate of transmissions are bounded, apart for urgent and for other
requests.

All transmissions of a request share its ID and are numbered in `attempt`, which the answer repeats. So the round-trip time
of a retry is known too. TCP must leave it out (Karn).

A time-out that this node notices late says more of this node than of the other: the answer may be waiting in its own
socket. So the request waits once more.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from random import Random

from kdht.histogram import Histogram
from kdht.node._timers import Alarm, Timers
from kdht.node.messages import Reply
from kdht.node.options import Options
from kdht.node.rate_queue import RateQueue
from kdht.times import SteadyTime
from kdht.wire import Address, Message
from kdht.wire._shared import Op

MAX_ATTEMPT = 255


class Rpc:
    """One request. `id` is the ID that must answer, or None while it is unknown.

    `timeout` is the first one, seconds; it doubles with each transmission up to `longest`. `body` is
    what follows the sender's ID; a STORE has none.
    """

    __slots__ = (
        "address",
        "alarm",
        "body",
        "done",
        "due",
        "ended",
        "excused",
        "id",
        "key",
        "longest",
        "op",
        "request_id",
        "sent",
        "timeout",
        "tries",
        "urgent",
        "waiting",
    )

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
        longest: float,
        urgent: bool = False,
        body: bytes = b"",
    ) -> None:
        self.op = op
        self.key = key
        self.address = address
        self.id = id
        self.done = done
        self.tries = tries
        self.timeout = timeout
        self.longest = longest
        self.urgent = urgent
        self.body = body
        self.request_id = 0
        self.sent: list[float] = []
        """When each transmission left."""
        self.waiting = False
        """Whether it waits until the rate allows it."""
        self.ended = False
        self.alarm: Alarm | None = None
        self.due = 0.0
        """When the last transmission counts as unanswered."""
        self.excused = False
        """Whether its time-out was already noticed late once."""


Done = Callable[[Rpc, Reply | None, SteadyTime], None]
"""The end of a request: with its reply, or None if it failed; and `now`."""


class Mismatch(Exception):
    """An answer belongs to no request. `reason` is the name of a counter."""

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
        transmit: Callable[[Rpc, SteadyTime], None],
        missed: Callable[[Rpc, SteadyTime], None],
    ) -> None:
        self._rng = rng
        self._timers = timers
        self._counters = counters
        self._transmit = transmit
        self._missed = missed
        self.round_trips: dict[Op, Histogram] = defaultdict(Histogram)
        self.answered_at = SteadyTime(0.0)
        """When the last reply came."""
        self._pending: dict[int, Rpc] = {}
        self._limit = options.max_pending
        self._closed = False
        self._queues = {
            True: RateQueue(options.probe_rate, timers, self._send_now),
            False: RateQueue(options.request_rate, timers, self._send_now),
        }

    def __len__(self) -> int:
        return len(self._pending)

    def start(self, rpc: Rpc, now: SteadyTime) -> bool:
        """Send it, now or when the rate allows; False, and `done` is never called, if too many wait."""
        queue = self._queues[rpc.urgent]
        # For each rate by itself: many lookups must not keep a probe from being sent.
        if self._closed or queue.pending >= self._limit:
            self._counters["pending_full"] += 1
            return False
        rpc.request_id = self._fresh_id()
        rpc.tries = min(rpc.tries, MAX_ATTEMPT)
        self._pending[rpc.request_id] = rpc
        queue.pending += 1
        queue.send(rpc, now)
        return True

    def hurry(self, rpc: Rpc, tries: int, timeout: float, now: SteadyTime) -> None:
        """Repeat it at once, with this many tries in all from now on, this many seconds apart."""
        rpc.tries = min(len(rpc.sent) + tries, MAX_ATTEMPT)
        rpc.timeout = rpc.longest = timeout
        # It has not left yet, so there is nothing to repeat.
        if rpc.waiting:
            return
        self._cancel(rpc)
        if rpc.sent[-1] < now:
            self._queues[rpc.urgent].send(rpc, now)
        else:
            self._wait(rpc, now)

    def match(self, message: Message, source: Address, sender: bytes, now: SteadyTime) -> tuple[Rpc, float]:
        """The request that this answers, which then waits no more, and the round-trip time.

        Raises Mismatch, and nothing has changed.
        """
        rpc = self._pending.get(message.request_id)
        if rpc is None:
            raise Mismatch("unmatched")
        if rpc.address != source:
            raise Mismatch("wrong_address")
        # An attempt that was never sent is a forgery, or a reply to another node's request.
        if rpc.op is not message.op or rpc.key != message.key or message.attempt >= len(rpc.sent):
            raise Mismatch("unmatched")
        # Another node has this address by now.
        if rpc.id is not None and rpc.id != sender:
            raise Mismatch("wrong_id")
        self._end(rpc)
        self.answered_at = now
        # The reply repeats the number of its transmission, so retries are measured too.
        rtt = now - rpc.sent[message.attempt]
        self.round_trips[rpc.op].observe(rtt)
        return rpc, rtt

    def abandon(self, now: SteadyTime, address: Address | None = None) -> None:
        """End all requests, to this address if one is given, as unanswered."""
        # The list first: each end changes the dictionary, and may start other requests.
        for rpc in [rpc for rpc in self._pending.values() if address in (None, rpc.address)]:
            self._fail(rpc, now)

    def close(self, now: SteadyTime) -> None:
        """No more requests, not even those under way."""
        self._closed = True
        self.abandon(now)

    def _fresh_id(self) -> int:
        # Random: who does not see the traffic cannot forge a matching answer.
        while (request_id := self._rng.getrandbits(64)) in self._pending:
            pass
        return request_id

    def _send_now(self, rpc: Rpc, now: SteadyTime) -> None:
        # Before it is transmitted: an answer may come within the same call in the laboratory.
        rpc.sent.append(now)
        rpc.excused = False
        self._wait(rpc, now)
        self._counters["requests_sent" if len(rpc.sent) == 1 else "repeats_sent"] += 1
        self._transmit(rpc, now)

    def _wait(self, rpc: Rpc, now: SteadyTime) -> None:
        rpc.due = now + rpc.timeout
        rpc.alarm = self._timers.at(rpc.due, partial(self._expired, rpc))

    def _expired(self, rpc: Rpc, now: SteadyTime) -> None:
        # This node itself was late. The answer may be waiting in its own socket.
        if now - rpc.due > rpc.timeout and not rpc.excused:
            rpc.excused = True
            self._wait(rpc, now)
            return
        self._counters["timeouts"] += 1
        # It may remove the contact, and with it end this request.
        self._missed(rpc, now)
        if len(rpc.sent) < rpc.tries:
            # Doubled with each loss: an overloaded node is asked less.
            rpc.timeout = max(min(2 * rpc.timeout, rpc.longest), rpc.timeout)
            self._queues[rpc.urgent].send(rpc, now)
        elif not rpc.ended:
            self._fail(rpc, now)

    def _fail(self, rpc: Rpc, now: SteadyTime) -> None:
        if not rpc.ended:
            self._end(rpc)
            rpc.done(rpc, None, now)

    def _end(self, rpc: Rpc) -> None:
        rpc.ended = True
        del self._pending[rpc.request_id]
        self._queues[rpc.urgent].pending -= 1
        self._cancel(rpc)

    def _cancel(self, rpc: Rpc) -> None:
        if rpc.alarm is not None:
            self._timers.cancel(rpc.alarm)
