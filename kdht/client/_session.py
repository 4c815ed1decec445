"""All requests of one client, and what it learns from one for the next: without I/O and without a clock.

Whoever drives a Session sends what stands in `outbox` after every call, hands in what arrives
(`receive`), what meets a closed port (`refused`), and calls `wake` at the time of `next_wake`.
Each request ends in its `on_done`, which may start others.
"""

import heapq
import random
from collections.abc import Callable
from typing import Protocol

from kdht._shared import TRY_BITS, Flag, Status
from kdht.client._calls import Answer, Call
from kdht.client._datagram import MAX_SENT, Send, Sent
from kdht.client._entries import DirectAnswers, Entries, HedgeBudget
from kdht.client._exchange import WRITES, Exchange
from kdht.client._versions import Versions
from kdht.client._watching import Watching
from kdht.errors import BadPacket
from kdht.wire import HEADER, check_form

_REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
_STATUSES = {int(status): status for status in Status}


class Pending(Protocol):
    """What the session does with a request, or with a watch."""

    @property
    def call(self) -> Call: ...
    @property
    def number(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def done(self) -> bool: ...
    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None: ...
    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None: ...
    def timed_out(self, now: float) -> None: ...
    def refused_by(self, node: int, now: float) -> None: ...


class Session:
    """What a client knows across requests; `nodes` is how many it may ask.

    `direct`: whether reads may be answered by any node, to a socket that is not connected.
    """

    def __init__(
        self, nodes: int, *, timeout: float, attempts: int, rng: random.Random, direct: bool = False
    ) -> None:
        self.entries = Entries(nodes)
        self.direct = DirectAnswers(direct)
        self.budget = HedgeBudget()
        self.versions = Versions()
        self.timeout = timeout
        self.attempts = attempts
        self.rng = rng
        self.cookie = 0
        self.outbox: list[Send] = []
        """What is to be sent; the driver empties it."""
        self.ignored = 0
        """Datagrams that answer nothing which is still asked."""
        self._pending: dict[int, Pending] = {}
        # Deadlines that no longer hold stay in the heap until they come to its top.
        self._deadlines: list[tuple[float, int]] = []
        # Answered writes of which another try may still be carried out, by key; and who waits for that.
        self._settling: dict[bytes, Exchange] = {}
        self._held: dict[bytes, list[Exchange]] = {}

    def start(
        self, call: Call, now: float, on_done: Callable[[Exchange, float], None] | None = None
    ) -> Exchange:
        """A new request. `on_done` is called with it once it has its answer or has failed."""
        exchange = Exchange(self, call, self._new_number(), now, on_done)
        self._pending[exchange.number] = exchange
        before = self._settling.get(call.key)
        if before is not None and call.op in WRITES:
            exchange.hold(before.settles_at())
            self._held.setdefault(call.key, []).append(exchange)
        else:
            exchange.start(now)
        heapq.heappush(self._deadlines, (exchange.deadline, exchange.number))
        return exchange

    def watch(self, call: Call, lease: int, now: float) -> Watching:
        """A new watch, which lasts until it is forgotten or fails."""
        watching = Watching(self, call, self._new_number(), lease, now)
        self._pending[watching.number] = watching
        watching.start(now)
        heapq.heappush(self._deadlines, (watching.deadline, watching.number))
        return watching

    def forget(self, pending: Pending) -> None:
        """What arrives for it is ignored from now on; nothing happens if it has ended."""
        if not pending.done:
            self._pending.pop(pending.number, None)

    def next_wake(self) -> float | None:
        """The earliest time at which something may have to be done."""
        return self._deadlines[0][0] if self._deadlines else None

    def wake(self, now: float) -> None:
        """Let the deadlines that have passed count."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, number = heapq.heappop(self._deadlines)
            pending = self._pending.get(number)
            if pending is None or pending.deadline != deadline:
                continue
            if not pending.done:
                pending.timed_out(now)
            self._settle(pending, None, now)

    def refused(self, node: int, now: float) -> None:
        """The node's port is closed: it is dead, and what was asked there is asked elsewhere."""
        self.entries.died(node, now)
        for pending in list(self._pending.values()):
            before = pending.deadline
            pending.refused_by(node, now)
            self._settle(pending, before, now)

    def receive(self, node: int, data: bytes, now: float, *, direct: bool = False) -> None:
        """Untrusted bytes from a node; `direct`: to a socket that takes them from any, ANY_NODE too.

        Only a reply from the node that a try went to, or from any if the try said so, with that try's request ID, op and
        key, is believed.
        """
        try:
            check_form(data)
        except BadPacket:
            self.ignored += 1
            return
        (_, _, op, flags, _, request_id, key, _, code, _, _, _, _, _, _, _, _, _, _, cookie, _, _) = (
            HEADER.unpack_from(data)
        )
        pending = self._pending.get(request_id >> TRY_BITS)
        status = _STATUSES.get(code)
        if pending is not None and flags == _REPLY_FLAGS and status is not None:
            index = request_id % MAX_SENT
            sent = pending.asked(index, node, direct=direct)
            if sent is not None and op == pending.call.op and key == pending.call.key:
                if direct and node != sent.node:
                    self.direct.answered()
                before = pending.deadline
                reply = Answer(status, data[HEADER.size :], now - sent.at)
                pending.received(reply, cookie, index, sent, now)
                self._settle(pending, before, now)
                return
        elif direct and flags == _REPLY_FLAGS:
            self.direct.came_late(request_id >> TRY_BITS, node)
        self.ignored += 1

    def _settle(self, pending: Pending, before: float | None, now: float) -> None:
        """See to it that what follows happens: its next deadline, or its end."""
        if not pending.done:
            if pending.deadline != before:
                heapq.heappush(self._deadlines, (pending.deadline, pending.number))
        elif isinstance(pending, Exchange):
            self._end(pending, now)
        else:
            self._pending.pop(pending.number, None)

    def _end(self, exchange: Exchange, now: float) -> None:
        """It is answered or has failed; other tries of a write may still be under way."""
        until = exchange.settles_at()
        if until <= now:
            self._pending.pop(exchange.number, None)
            self._release(exchange, now)
        elif exchange.deadline != until:
            exchange.deadline = until
            self._settling[exchange.call.key] = exchange
            heapq.heappush(self._deadlines, (until, exchange.number))
        on_done, exchange.on_done = exchange.on_done, None
        if on_done is not None:
            on_done(exchange, now)

    def _release(self, exchange: Exchange, now: float) -> None:
        """The writes that waited for this one may go."""
        if self._settling.get(exchange.call.key) is exchange:
            del self._settling[exchange.call.key]
            for held in self._held.pop(exchange.call.key, []):
                if held.number in self._pending and not held.started:
                    held.timed_out(now)
                    self._settle(held, None, now)

    def _new_number(self) -> int:
        return self.rng.getrandbits(64 - TRY_BITS)
