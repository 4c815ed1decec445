"""All requests of one client, and what it learns from one for the next: without I/O and without a clock.

Whoever drives a Session sends what stands in `outbox` after every call, hands in what arrives
(`receive`), what meets a closed port (`refused`), and calls `wake` at the time of `next_wake`.
Each request ends in its `on_done`, which may start others.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from kdht.client._calls import Answer, Call
from kdht.client._clock import WriteClock
from kdht.client._datagram import MAX_SENT, Send, Sent
from kdht.client._entries import DirectAnswers, Entries, HedgeBudget, ReadWays
from kdht.client._exchange import Exchange
from kdht.client._learning import Learner, Learnt, neighbours
from kdht.client._reads import Read
from kdht.client._versions import Versions
from kdht.client._watching import Watching
from kdht.client._writes import Write
from kdht.errors import BadPacket
from kdht.wire import HEADER, STATUS_OF, check_form
from kdht.wire._shared import TRY_BITS, Flag, Op

_REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
_KINDS: dict[Op, type[Exchange]] = {Op.GET: Read, Op.QUORUM_GET: Read, Op.PUT: Write, Op.DELETE: Write}


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
    """What a client knows across requests; `nodes` is how many it may ask, and `name_of` says how each is called.

    `unix_us`: microseconds since 1970, for the versions of what is written. `direct`: whether reads may be answered by any
    node, to a socket that is not connected. `spread`: whether they go to any replica. `on_learnt`: the nodes that the
    cluster tells of are used too, and this hears of them.
    """

    def __init__(
        self,
        nodes: int,
        *,
        timeout: float,
        attempts: int,
        rng: random.Random,
        unix_us: Callable[[], int],
        name_of: Callable[[int], str] = "node {}".format,
        direct: bool = False,
        spread: bool = False,
        on_learnt: Learnt | None = None,
    ) -> None:
        self.entries = Entries(nodes)
        self.direct = DirectAnswers(direct)
        self.ways = ReadWays(spread)
        self.budget = HedgeBudget()
        self.versions = Versions()
        self.clock = WriteClock(unix_us, rng)
        self.timeout = timeout
        self.attempts = attempts
        self.rng = rng
        self.name_of = name_of
        self.cookie = 0
        self.outbox: list[Send] = []
        """What is to be sent; the driver empties it."""
        self.ignored = 0
        """Datagrams that answer nothing which is still asked."""
        self._learner = Learner(self.entries, on_learnt)
        self._was_answered = False
        self._pending: dict[int, Pending] = {}
        # Deadlines that no longer hold stay in the heap until they come to its top.
        self._deadlines: list[tuple[float, int]] = []
        # The numbers of what was sent to each node since it last refused something; what has ended stays for a while.
        self._asked: defaultdict[int, list[int]] = defaultdict(list)

    def start(
        self, call: Call, now: float, on_done: Callable[[Exchange, float], None] | None = None
    ) -> Exchange:
        """A new request. `on_done` is called with it once it has its answer or has failed."""
        if now >= self._learner.due_at:
            self._learner.begin(now)
            self._begin(neighbours(self.rng), now, self._told_of_nodes)
        return self._begin(call, now, on_done)

    def _begin(self, call: Call, now: float, on_done: Callable[[Exchange, float], None] | None) -> Exchange:
        kind = _KINDS.get(call.op, Exchange)
        exchange = kind(self, call, self._new_number(), now, on_done)
        self._pending[exchange.number] = exchange
        exchange.start(now)
        heapq.heappush(self._deadlines, (exchange.deadline, exchange.number))
        return exchange

    def _told_of_nodes(self, exchange: Exchange, now: float) -> None:
        if exchange.answer is not None:
            self._learner.learn(exchange.answer)

    def send(self, send: Send, number: int) -> None:
        """A datagram of the request of that number."""
        self.outbox.append(send)
        asked = self._asked[send.node]
        asked.append(number)
        if len(asked) > 2 * len(self._pending) + MAX_SENT:
            asked[:] = {each for each in asked if each in self._pending}

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

    def is_due(self, now: float) -> bool:
        """Whether `wake` would do anything: then what lies in the sockets is to be handed in before."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, number = self._deadlines[0]
            pending = self._pending.get(number)
            if pending is not None and pending.deadline == deadline:
                return True
            heapq.heappop(self._deadlines)
        return False

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
        # Each datagram counts once, so that many requests at one closed port cost no more than they are.
        for number in dict.fromkeys(self._asked.pop(node, ())):
            pending = self._pending.get(number)
            if pending is not None:
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
        status = STATUS_OF.get(code)
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
                if not self._was_answered:
                    self._was_answered = True
                    self._learner.answered(now)
                return
        elif direct and flags == _REPLY_FLAGS:
            self.direct.came_late(request_id >> TRY_BITS, node)
        self.ignored += 1

    def _settle(self, pending: Pending, before: float | None, now: float) -> None:
        """See to it that what follows happens: its next deadline, or its end."""
        if not pending.done:
            if pending.deadline != before:
                heapq.heappush(self._deadlines, (pending.deadline, pending.number))
        else:
            self._pending.pop(pending.number, None)
            if isinstance(pending, Exchange) and pending.on_done is not None:
                on_done, pending.on_done = pending.on_done, None
                on_done(pending, now)

    def _new_number(self) -> int:
        return self.rng.getrandbits(64 - TRY_BITS)
