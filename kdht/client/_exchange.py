"""One request's tries, deadlines and replies, without I/O and without a clock.

A Session is what a client knows from request to request: how long each node takes, which
one answers, its cookie. An Exchange is one request. Whoever drives them sends each Send,
hands in what arrives and the deadlines that pass, until the exchange is `done`.

Try n goes to the n-th node from the one that answered last, round the list. `attempt`
stays 0 for the first two tries, for most losses are chance; from then on every second try
walks around the best way (0, 0, 1, 0, 2, 0, 3, ...). Where the walk ends at a node that
does not own the key (NOT_RESPONSIBLE), the next try follows at once.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from kdht._shared import Flag, Status
from kdht.client._calls import Answer, Call, refused
from kdht.errors import BadPacket, RequestError, RequestTimeout
from kdht.wire import HEADER, OFFSET, check_form, pack_request

START_RTO = 0.25
MIN_RTO = 0.05
MAX_RTO = 2.0
JITTER = 0.5
"""The longest addition to a retry's waiting time, as a part of it."""

TRY_BITS = 5
"""The request ID's low bits number its tries, so that each reply shows which try it answers."""
MAX_SENT = 1 << TRY_BITS
MAX_ATTEMPTS = MAX_SENT // 2
MAX_REPEATS = MAX_SENT - MAX_ATTEMPTS
"""How often the tries of one request may be repeated with a new cookie."""

_LAST_ID_BYTE = OFFSET["request_id"] + 7
_COOKIE = slice(OFFSET["cookie"], OFFSET["cookie"] + 8)
_REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
_STATUSES = {int(status): status for status in Status}


class RoundTrip:
    """A node's retransmission time-out, seconds, from measured round trips (RFC 6298, section 2)."""

    __slots__ = ("_smoothed", "_variation", "rto")

    def __init__(self) -> None:
        self.rto = START_RTO
        self._smoothed = self._variation = 0.0

    def sample(self, rtt: float) -> None:
        """Take in one measured round trip, seconds."""
        if self._smoothed:
            self._variation += (abs(self._smoothed - rtt) - self._variation) / 4
            self._smoothed += (rtt - self._smoothed) / 8
        else:
            self._smoothed, self._variation = rtt, rtt / 2
        self.rto = min(max(MIN_RTO, self._smoothed + 4 * self._variation), MAX_RTO)


class Send(NamedTuple):
    """A datagram to send to the node with this index."""

    node: int
    data: bytes


class Sent(NamedTuple):
    """What is remembered of a datagram sent."""

    node: int
    attempt: int
    cookie: int
    at: float


def attempt_of(number: int) -> int:
    """The `attempt` of try `number`, counted from 0."""
    return number // 2 if number % 2 == 0 else 0


class Session:
    """What a client knows across requests; `nodes` is how many it may ask."""

    def __init__(self, nodes: int, *, timeout: float, attempts: int, rng: random.Random) -> None:
        self.round_trips = [RoundTrip() for _ in range(nodes)]
        self.timeout = timeout
        self.attempts = attempts
        self.rng = rng
        self.current = 0
        """The node that the next request asks first."""
        self.cookie = 0
        self.ignored = 0
        """Datagrams that answer nothing which is still asked."""
        self._pending: dict[int, Exchange] = {}

    def open(self, call: Call, now: float) -> "Exchange":
        """A new request; nothing is sent before its `start`. `close` it in the end."""
        number = self.rng.getrandbits(64 - TRY_BITS)
        exchange = self._pending[number] = Exchange(self, call, number, now)
        return exchange

    def close(self, exchange: "Exchange") -> None:
        """Forget a request: what arrives for it is ignored from now on."""
        self._pending.pop(exchange.number, None)

    def silent(self, node: int) -> None:
        """A node did not answer, or its port is closed: let the next request ask another first."""
        if node == self.current:
            self.current = (node + 1) % len(self.round_trips)

    def receive(self, node: int, data: bytes, now: float) -> "tuple[Exchange, Send | None] | None":
        """The exchange that untrusted bytes from a node belong to, and what it sends in return.

        None if they answer nothing: only a reply from the node that a try went to, with that
        try's request ID, op and key, is believed.
        """
        try:
            check_form(data)
        except BadPacket:
            self.ignored += 1
            return None
        (_, _, op, flags, _, request_id, key, _, code, _, _, _, _, _, _, _, _, _, _, cookie, _, _) = (
            HEADER.unpack_from(data)
        )
        exchange = self._pending.get(request_id >> TRY_BITS)
        status = _STATUSES.get(code)
        if exchange is not None and flags == _REPLY_FLAGS and status is not None:
            sent = exchange.asked(request_id % MAX_SENT, node)
            if sent is not None and op == exchange.call.op and key == exchange.call.key:
                reply = Answer(status, data[HEADER.size :], now - sent.at)
                return exchange, exchange.received(reply, cookie, sent, now)
        self.ignored += 1
        return None


class Exchange:
    """One request until its answer or its failure: `deadline` is when to call `timed_out`."""

    __slots__ = (
        "_first_node",
        "_gives_up",
        "_message",
        "_refusal",
        "_sent",
        "_session",
        "_tries",
        "answer",
        "call",
        "deadline",
        "error",
        "number",
    )

    def __init__(self, session: Session, call: Call, number: int, now: float) -> None:
        self.call = call
        self.number = number
        self.answer: Answer | None = None
        self.error: RequestError | None = None
        self.deadline = now
        self._session = session
        self._first_node = session.current
        self._gives_up = now + session.timeout
        self._tries = 0
        self._sent: list[Sent] = []
        self._refusal: Status | None = None
        self._message = pack_request(
            call.op, call.key, number << TRY_BITS, call.body, hops=call.hops, max_reply=call.max_reply
        )

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """The answer, once done; raises RequestError or the kind of it that fits."""
        if self.answer is None:
            raise self.error or RequestError(f"{self.call}: the client was closed")
        status = self.answer.status
        if status is not Status.OK and status not in self.call.accepts:
            raise refused(self.call, status)
        return self.answer

    def asked(self, number: int, node: int) -> Sent | None:
        """The sending of that number, if it went to that node."""
        sent = self._sent[number] if number < len(self._sent) else None
        return sent if sent is not None and sent.node == node else None

    def start(self, now: float) -> Send:
        """The first try."""
        return self._try(now)

    def timed_out(self, now: float) -> Send | None:
        """The deadline passed: the next try, or None when waiting or given up."""
        if now >= self._gives_up:
            self.error = self._failure()
            return None
        self._session.silent(self._sent[-1].node)
        return self._next_try(now)

    def received(self, reply: Answer, cookie: int, sent: Sent, now: float) -> Send | None:
        """A reply to one of the tries: what to send now, if anything."""
        self._session.round_trips[sent.node].sample(reply.rtt)
        self._session.cookie = cookie or self._session.cookie
        if reply.status is not Status.OK and reply.status in _NOT_THE_END:
            return _NOT_THE_END[reply.status](self, reply, cookie, sent, now)
        self.answer = reply
        return None

    def _next_try(self, now: float) -> Send | None:
        if self._tries < self._session.attempts:
            return self._try(now)
        self.deadline = self._gives_up
        return None

    def _try(self, now: float) -> Send:
        """Try once more; each waits twice as long as the one before, the last one to the end."""
        nodes = self._session.round_trips
        node = (self._first_node + self._tries) % len(nodes)
        wait = min(nodes[node].rto * 2**self._tries, MAX_RTO)
        if self._tries:
            wait *= 1 + self._session.rng.random() * JITTER
        attempt = attempt_of(self._tries) if self.call.walks_around else 0
        self._tries += 1
        is_last = self._tries == self._session.attempts
        self.deadline = self._gives_up if is_last else min(now + wait, self._gives_up)
        return self._send(node, attempt, now)

    def _send(self, node: int, attempt: int, now: float) -> Send:
        cookie = self._session.cookie
        message = self._message
        message[_LAST_ID_BYTE] = (self.number << TRY_BITS & 0xFF) | len(self._sent)
        message[OFFSET["attempt"]] = attempt
        message[_COOKIE] = cookie.to_bytes(8, "big")
        self._sent.append(Sent(node, attempt, cookie, now))
        return Send(node, bytes(message))

    def _failure(self) -> RequestError:
        """BUSY, which may pass and did not, or a time-out."""
        if self._refusal is not None:
            return refused(self.call, self._refusal)
        tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
        return RequestTimeout(f"{self.call}: no answer within {self._session.timeout:g} s and {tries}")

    # What else a reply may lead to than the end.

    def _show_cookie(self, reply: Answer, cookie: int, sent: Sent, now: float) -> Send | None:
        """Repeat with the reply's cookie, unless a later try has it already."""
        if cookie in (0, sent.cookie) or len(self._sent) - self._tries == MAX_REPEATS:
            self.answer = reply
            return None
        if self._sent[-1].cookie == cookie:
            return None
        return self._send(sent.node, sent.attempt, now)

    def _try_elsewhere(self, reply: Answer, cookie: int, sent: Sent, now: float) -> Send | None:
        """A walk ended beside the owner; an answer that comes late may still be one."""
        if not self.call.walks_around:
            self.answer = reply
            return None
        return self._next_try(now) if sent is self._sent[-1] else None

    def _wait(self, reply: Answer, cookie: int, sent: Sent, now: float) -> None:
        """The owner has too much to do: let the deadline pass before trying again."""
        self._refusal = reply.status


_NOT_THE_END: dict[Status, Callable[[Exchange, Answer, int, Sent, float], Send | None]] = {
    Status.COOKIE_NEEDED: Exchange._show_cookie,
    Status.NOT_RESPONSIBLE: Exchange._try_elsewhere,
    Status.BUSY: Exchange._wait,
}
