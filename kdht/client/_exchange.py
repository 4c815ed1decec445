"""One request from its first try to its answer or its failure. No I/O and no clock.

               first try
                   |
                   v
             +-----------+   answer, or final refusal    +------+
      +----->| under way |------------------------------>| done |
      |      +-----------+                               +------+
      |            |                                         ^
      |            | deadline, closed port, other reply      |
      |            v                                         |
      +-- another try or a later deadline;                   |
          or no try or no time is left: error ---------------+

A reply has the number of the datagram it answers: the last one, or an earlier one. Its status decides:

    reply               to the last datagram                   to an earlier one
    OK, NOT_FOUND, ...  done                                   done
    COOKIE_NEEDED       repeat it with the cookie              the same, unless the last one has the cookie
    NOT_RESPONSIBLE     next try by the best route; a pause    -
                        from the second lap on
    STORAGE_FAILED,     next try: another replica              remember the reason
    FULL
    UNREACHABLE         next try by the next route, same node  -
                        (MAX_BOUNCES times at once)
    BUSY, UNCONFIRMED   pause, then the next try               remember the reason

And without a reply:

    deadline            next try: a hedge, or after a loss. Past the end of the request's time: RequestTimeout
    closed port         repeat through another node; where all are closed: PortClosed

`_retries` decides the time, the route and the node of the next try. `_reads` and `_writes` add their own rules.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from kdht.client._calls import Answer, Call, refused
from kdht.client._client_state import ClientState
from kdht.client._datagram import MAX_REPEATS, Sent, address
from kdht.client._nodes import NOBODY
from kdht.client._retries import RetryPolicy
from kdht.errors import PortClosed, RequestError, RequestTimeout
from kdht.wire._shared import TRY_BITS, Status

# Without this pause one killed daemon would end requests with PortClosed that another replica could still
# answer through the program that outlives it.
FORWARDS = 1.0
"""Seconds after an answer in which a closed port is not believed: when a daemon is killed, its XDP program still
forwards for a while."""


class Action(Enum):
    """The consequence of a reply that does not end the request."""

    NOTHING = auto()
    SHOW_COOKIE = auto()
    BEST_ROUTE = auto()
    OTHER_REPLICA = auto()
    NEXT_ROUTE = auto()
    PAUSE = auto()


class Transition(NamedTuple):
    """By the datagram of the reply. `is_reason`: if the request ends without an answer, its error says this."""

    to_last: Action
    to_earlier: Action = Action.NOTHING
    is_reason: bool = False


TRANSITIONS = {
    Status.COOKIE_NEEDED: Transition(Action.SHOW_COOKIE, Action.SHOW_COOKIE),
    Status.NOT_RESPONSIBLE: Transition(Action.BEST_ROUTE),
    Status.STORAGE_FAILED: Transition(Action.OTHER_REPLICA, is_reason=True),
    Status.FULL: Transition(Action.OTHER_REPLICA, is_reason=True),
    Status.UNREACHABLE: Transition(Action.NEXT_ROUTE),
    Status.BUSY: Transition(Action.PAUSE, is_reason=True),
    Status.UNCONFIRMED: Transition(Action.PAUSE, is_reason=True),
}
"""Every other status ends the request, and so does one that the call accepts."""

# A round trip with either of them would teach the client a wrong usual latency, and hedges and time-outs would
# follow it.
_TELLS_NO_TIME = frozenset({Status.UNCONFIRMED, Status.UNREACHABLE})
"""Their round trips mean nothing: one took as long as its coordinator waits, the other ended on the way."""


class Request(NamedTuple):
    """The arguments of an Exchange."""

    call: Call
    number: int
    """The upper bits of the request ID."""
    begun: float
    on_done: "Callable[[Exchange, float], None] | None" = None
    """Called once, with the exchange and the time, when the exchange has its answer or has failed."""


class Exchange:
    """One request until its answer or its failure. `deadline`: when to call `timed_out`, on the caller's clock."""

    __slots__ = (
        "_closed", "_mask", "_message", "_on_done", "_policy", "_refusal", "_replied", "_sent", "_state", "answer", "call",
        "deadline", "error", "number",
    )  # fmt: skip

    def __init__(self, state: ClientState, request: Request) -> None:
        self.call = call = request.call
        self.number = request.number
        self.answer: Answer | None = None
        self.error: RequestError | None = None
        self.deadline = request.begun
        self._on_done = request.on_done
        self._state = state
        self._policy = RetryPolicy(
            call,
            state.nodes,
            state.budget,
            state.rng,
            max_tries=state.attempts,
            gives_up=request.begun + state.timeout,
        )
        self._sent: list[Sent] = []
        # Drawn only for a direct datagram: most requests have none, and a random number costs more than the
        # rest of the constructor.
        self._mask = -1
        """Hides the numbers of direct datagrams. Negative: there were none."""
        self._replied: set[int] = set()
        """The numbers of those with a reply."""
        self._closed = NOBODY
        """Nodes whose port is closed."""
        self._refusal: Status | None = None
        """The status for the error, if no answer comes."""
        self._message = state.rights.pack(call, self.number)

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """The answer, once done. Raises a RequestError if the request failed or was forgotten."""
        if self.answer is None:
            raise self.error or RequestError(f"{self.call}: the client was closed")
        status = self.answer.status
        if status is not Status.OK and status not in self.call.accepts:
            raise refused(self.call, self.answer)
        return self.answer

    @property
    def reason(self) -> RequestError:
        """Why there is no answer so far."""
        return self._failure()

    @property
    def mask(self) -> int:
        """What the numbers of direct datagrams are XORed with. So all 64 bits of their request IDs are random: only these
        bits tell a direct answer from a forged one."""
        if self._mask < 0:
            self._mask = self._state.rng.getrandbits(TRY_BITS)
        return self._mask

    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None:
        """The datagram of that number, if `node` may answer it: any node may if the datagram was `direct`."""
        sent = self._sent[number] if number < len(self._sent) else None
        if sent is None or sent.direct is not direct:
            return None
        # A connected socket's reply must come from the node that was asked: another node that guesses a request
        # ID would else answer for it.
        return sent if direct or sent.node == node else None

    # --- Events

    def start(self, now: float) -> None:
        """Send the first try."""
        self._try(self._state.nodes.current, now)

    def timed_out(self, now: float) -> None:
        """The deadline has passed."""
        policy, last = self._policy, self._sent[-1]
        if now >= policy.gives_up:
            self._fail()
            return
        # A hedge is no loss: the last try may still be answered.
        is_hedge = policy.hedges_next
        # Without budget the deadline of a loss applies: an overloaded cluster must not get more requests
        # because it is slow.
        if is_hedge and not policy.take_hedge(last.node):
            self.deadline = policy.wait_without_hedge(last.at, last.node)
            return
        answered = self._last_is_answered
        if not answered:
            self._state.nodes.missed(last.node, last.at, now)
            # A NAT drops direct answers without a trace, so silence is the only sign of it. But it lets an owner's own
            # answer through.
            if last.direct and not self._state.owners.forget(self.call.key, last.node):
                self._state.direct.missed(self.number, last, now)
        self._try_next(now, policy.after_silence(last, answered=answered), hedge=is_hedge)

    def refused_by(self, node: int, now: float) -> None:
        """That node's port is closed. If it had the last try, another node gets it; if all are closed, it is over."""
        self._closed |= {node}
        last = self._sent[-1]
        # The last try is elsewhere, or has its reply.
        if last.node != node or self._last_is_answered:
            return
        nodes = self._state.nodes
        other = nodes.after(node, but=self._closed)
        if other in self._closed:
            # All ports are closed, but one answered a moment ago: its XDP program may still forward, so this
            # try may have an answer under way.
            if max(nodes[each].answered_at for each in self._closed) > now - FORWARDS:
                return  # as a lost try
            where = ", ".join(self._state.node_name(each) for each in sorted(self._closed))
            self.error = PortClosed(f"{self.call}: nobody listens at {where}: is kdhtd running there?")
        elif self._may_repeat:
            self._repeat(other, last.attempt, now)

    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None:
        """A reply came to `sent`, the datagram of number `index`."""
        state = self._state
        rtt = None if reply.status in _TELLS_NO_TIME else reply.rtt
        # Before the table: any reply, a refusal too, shows that the node lives.
        state.nodes.answered(sent.node, self.call.op, rtt, now)
        # Good at every node of the cluster: its key derives from the cluster's secret.
        state.cookie = cookie or state.cookie
        self._replied.add(index)
        if not self.done:
            self._take(reply, cookie, index, now)

    def ended(self, now: float) -> None:
        """The session has dropped it: tell whoever asked, once."""
        if self._on_done is not None:
            on_done, self._on_done = self._on_done, None
            on_done(self, now)

    # --- Replies

    def _take(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """Follow the table."""
        status = reply.status
        transition = TRANSITIONS.get(status)
        # A status that this client does not know ends the request: a newer node may mean by it that a retry
        # does harm.
        if transition is None or self._is_final(status):
            self._conclude(reply, index, now)
            return
        if transition.is_reason:
            self._refusal = status
        sent = self._sent[index]
        match transition.to_last if self._is_last(index) else transition.to_earlier:
            # An earlier datagram's demand counts too: the cookie is good for all tries, and the first demand
            # saves the later ones.
            case Action.SHOW_COOKIE:
                self._show_cookie(reply, cookie, index, now)
            case Action.BEST_ROUTE:
                self._pause_or_try(self._policy.pauses_beyond_replicas(sent.attempt), now)
            case Action.OTHER_REPLICA:
                self._try_next(now)
            case Action.NEXT_ROUTE:
                self._pause_or_try(self._policy.pauses_after_bounce(), now, sent.node)
            case Action.PAUSE:
                self._pause(now)

    def _is_final(self, status: Status) -> bool:
        """Whether a status of the table ends this request all the same; only a TRACE does not leave its route."""
        return status in self.call.accepts or (
            status is Status.NOT_RESPONSIBLE and not self.call.walks_around
        )

    def _conclude(self, reply: Answer, index: int, now: float) -> None:
        """The request ends with this reply, perhaps a refusal."""
        # Hedges that brought the answer are paid back: with dead nodes they serve as retries.
        if len(self._sent) > 1:
            self._state.budget.pay_back(sum(each.hedge for each in self._sent[: index + 1]))
        self.answer = reply

    def _show_cookie(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """Repeat with the reply's cookie, unless the last datagram has it."""
        sent = self._sent[index]
        # The node refuses the very cookie that it gave out: repeating would never end.
        if cookie in (0, sent.cookie) or not self._may_repeat:
            self._conclude(reply, index, now)
        # Hedges of one read may each be told of the same cookie. One repetition is enough for all.
        elif self._sent[-1].cookie != cookie:
            self._repeat(sent.node, sent.attempt, now, direct=sent.direct)

    # --- Tries

    @property
    def _last_is_answered(self) -> bool:
        return len(self._sent) - 1 in self._replied

    @property
    def _all_answered(self) -> bool:
        return len(self._replied) == len(self._sent)

    @property
    def _may_repeat(self) -> bool:
        return len(self._sent) - self._policy.tries < MAX_REPEATS

    def _is_last(self, index: int) -> bool:
        return index == len(self._sent) - 1

    def _try_next(self, now: float, node: int | None = None, *, hedge: bool = False) -> None:
        """Try once more, through `node` or the next one. If no try is left, wait for those under way, or fail."""
        if not self._policy.is_used_up:
            if node is None:
                node = self._state.nodes.after(self._sent[-1].node)
            self._try(node, now, hedge=hedge)
        # Every try has its reply and none was an answer: waiting longer cannot bring one.
        elif self._all_answered:
            self._fail()
        else:
            # An answer to any earlier try still counts.
            self.deadline = self._policy.wait_to_the_end()

    def _try(self, node: int, now: float, *, hedge: bool = False, direct: bool = False) -> None:
        self._send(node, self._policy.next_attempt(), now, hedge=hedge, direct=direct)
        self.deadline = self._policy.wait(now, node)

    def _repeat(self, node: int, attempt: int, now: float, *, direct: bool = False) -> None:
        """Send a try again. It does not count as another one."""
        self._send(node, attempt, now, direct=direct)
        self.deadline = self._policy.wait(now, node)

    def _pause_or_try(self, pauses: bool, now: float, node: int | None = None) -> None:
        if pauses:
            self._pause(now)
        else:
            self._try_next(now, node)

    def _pause(self, now: float) -> None:
        """Nothing is under way: wait, then try again. If no try is left, wait for earlier ones, or fail."""
        self.deadline = self._policy.pause(now, self._sent[-1].node)
        if self._policy.is_used_up and self._all_answered:
            self._fail()

    def _send(
        self, node: int, attempt: int, now: float, *, hedge: bool = False, direct: bool = False
    ) -> None:
        sent = Sent(node, attempt, self._state.cookie, now, hedge, direct)
        # A direct answer may come from any address, so the low bits must not be guessable either.
        number = len(self._sent) ^ (self.mask if direct else 0)
        port = self._state.nodes[node].port
        self._state.outgoing.add(address(self._message, number, sent, port), self.number)
        self._sent.append(sent)

    # --- The end without an answer

    def _fail(self) -> None:
        self.error = self._failure()

    def _failure(self) -> RequestError:
        """The last reason that a node gave, or a time-out."""
        # A node's own reason helps the caller more than "no answer": a full disk or a busy node can be dealt
        # with.
        if self._refusal is not None:
            return refused(self.call, Answer(self._refusal))
        if self._all_answered:
            return refused(self.call, Answer(Status.NOT_RESPONSIBLE))
        count = self._policy.tries
        tries = "1 try" if count == 1 else f"{count} tries"
        return RequestTimeout(f"{self.call}: no answer within {self._state.timeout:g} s and {tries}")
