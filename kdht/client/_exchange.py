"""One request's tries, deadlines and replies, without I/O and without a clock.

Each try goes by the next way: `attempt` 0, 1, 2, ..., which in a cluster where everybody knows everybody are the
owner, the second replica, the third; and to the next living node, unless the last one answered others
meanwhile: then what is dead is behind it. A read is tried again once the usual
latency is passed (a hedge, from a budget), everything else, and a read without budget, once it must be
taken for lost; from then on each wait is twice as long. NOT_RESPONSIBLE says that the replicas are
used up: the best way again, the first time at once. UNREACHABLE, that this way is closed: the next one at once.
A closed port of an entry node: the next node at once, and where all are closed the request ends.

What is special to reads and to writes stands in `_reads` and `_writes`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdht.client._calls import Answer, Call, refused
from kdht.client._datagram import MAX_ATTEMPTS, MAX_REPEATS, Sent, address
from kdht.client._entries import MAX_RTO, NOBODY
from kdht.errors import PortClosed, RequestError, RequestTimeout
from kdht.wire import pack_request
from kdht.wire._shared import TRY_BITS, Status

if TYPE_CHECKING:
    from kdht.client._session import Session

MAX_HEDGES = 5
"""Of one request."""
MAX_WAYS = 5
"""Tries of one request by one node that lives: as many are as soon as the first, for each goes another way."""
MAX_BOUNCES = 5
"""Tries of one request that may end UNREACHABLE and be followed at once by another."""
FORWARDS = 1.0
"""Seconds; so long after an answer a closed port is not believed: where a daemon was killed, its XDP program still forwards."""
MAX_PAUSE = 0.5
"""Seconds after a refusal until the next try, at most, if the tries last: a node that joins may be ready then."""
JITTER = 0.5
"""The longest addition to a retry's waiting time, as a part of it."""


class Exchange:
    """One request until its answer or its failure: `deadline` is when to call `timed_out`."""

    __slots__ = (
        "_attempt", "_bounces", "_closed", "_gives_up", "_hedges_left", "_laps", "_lost", "_message", "_no_effect",
        "_refusal", "_replied", "_sent", "_session", "_tries", "_waits_to_hedge", "answer", "call", "deadline", "error",
        "number", "on_done",
    )  # fmt: skip

    def __init__(
        self,
        session: "Session",
        call: Call,
        number: int,
        now: float,
        on_done: "Callable[[Exchange, float], None] | None" = None,
    ) -> None:
        self.call = call
        self.number = number
        self.on_done = on_done
        self.answer: Answer | None = None
        self.error: RequestError | None = None
        self.deadline = now
        self._session = session
        self._gives_up = now + session.timeout
        self._attempt = self._tries = self._lost = self._laps = self._bounces = 0
        self._hedges_left = MAX_HEDGES if call.hedged else 0
        self._waits_to_hedge = False
        self._sent: list[Sent] = []
        self._replied: set[int] = set()
        self._no_effect: set[int] = set()
        """Datagrams of which the answer said that nothing was done."""
        self._closed = NOBODY
        """Nodes that turned out to have closed their port."""
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
            raise refused(self.call, self.answer)
        return self.answer

    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None:
        """The sending of that number, if it went to that node, or could be answered by any and was (`direct`)."""
        sent = self._sent[number] if number < len(self._sent) else None
        if sent is None or sent.direct is not direct:
            return None
        return sent if direct or sent.node == node else None

    def start(self, now: float) -> None:
        """The first try."""
        self._try(self._session.entries.current, now)

    def timed_out(self, now: float) -> None:
        """The deadline passed: the next try, or the end."""
        if now >= self._gives_up:
            self._fail()
            return
        session, last = self._session, self._sent[-1]
        is_hedge = self._waits_to_hedge
        if is_hedge:
            if not (session.entries[last.node].dead or session.budget.take()):
                self._hedges_left = 0
                self._wait_from(last.at)
                return
            self._hedges_left -= 1
        lives = False
        if not self._last_is_answered:
            session.entries.missed(last.node, last.at, now)
            if last.direct:
                session.direct.missed(self.number, last, now)
            # Who answered others meanwhile lives: what is dead is behind it, and another way leads around.
            lives = session.entries[last.node].answered_at > last.at and self._tries <= MAX_WAYS
        self._lost += not (is_hedge or lives)
        self._try_next(now, hedge=is_hedge, node=last.node if lives else None)

    def refused_by(self, node: int, now: float) -> None:
        """That node's port is closed: what went there last goes by another node; it ends where all are closed."""
        self._closed |= {node}
        last = self._sent[-1]
        if last.node != node or self._last_is_answered:
            return
        entries = self._session.entries
        other = entries.after(node, but=self._closed)
        if other in self._closed:
            if max(entries[each].answered_at for each in self._closed) > now - FORWARDS:
                return  # a try like one that is lost
            where = ", ".join(self._session.name_of(each) for each in sorted(self._closed))
            self.error = PortClosed(f"{self.call}: nobody listens at {where}: is kdhtd running there?")
        elif self._may_repeat:
            self._send(other, last.attempt, now)
            self._wait_from(now)

    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None:
        """A reply to the datagram of that number: the answer, or what to do next."""
        session = self._session
        rtt = None if reply.status in _TELLS_NO_TIME else reply.rtt
        session.entries.answered(sent.node, self.call.op, rtt, now)
        session.cookie = cookie or session.cookie
        self._replied.add(index)
        if not (self.done or self._goes_on(reply, cookie, index, now)):
            self._conclude(reply, index, now)

    # --- What a reply leads to

    def _goes_on(self, reply: Answer, cookie: int, index: int, now: float) -> bool:
        """Whether the request has not ended with this reply; if so, what follows is begun."""
        status = reply.status
        if status is Status.OK or status not in _NOT_THE_END or status in self.call.accepts:
            return False
        getattr(self, _NOT_THE_END[status])(reply, cookie, index, now)
        return True

    def _conclude(self, reply: Answer, index: int, now: float) -> None:
        """It has its answer, a refusal perhaps."""
        if len(self._sent) > 1:
            self._session.budget.pay_back(sum(each.hedge for each in self._sent[: index + 1]))
        self.answer = reply

    def _show_cookie(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """Repeat with the reply's cookie, unless a later datagram has it already."""
        self._no_effect.add(index)
        sent = self._sent[index]
        if cookie in (0, sent.cookie) or not self._may_repeat:
            self._conclude(reply, index, now)
        elif self._sent[-1].cookie != cookie:
            self._send(sent.node, sent.attempt, now, direct=sent.direct)
            self._wait_from(now)

    def _walked_too_far(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """The try ended beside the replicas; an answer to an earlier one may still come.

        So the cluster answers, and what was lost on this lap was behind somebody dead: patience grows by laps, not by tries.
        """
        self._no_effect.add(index)
        if not self.call.walks_around:
            self._conclude(reply, index, now)
        elif self._is_last(index):
            self._attempt = 1 if self._sent[index].attempt == 0 else 0
            self._laps += self._attempt == 0
            self._lost = self._laps
            if self._laps > 1 and self._attempt == 0:
                self._pause(now)
            else:
                self._try_next(now)

    def _other_replica(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """This replica's disk failed."""
        self._no_effect.add(index)
        self._refusal = reply.status
        if self._is_last(index):
            self._try_next(now)

    def _other_way(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """The port of the next node on the way is closed: what was sent there nobody has seen."""
        self._no_effect.add(index)
        if self._is_last(index):
            self._bounces += 1
            if self._bounces > MAX_BOUNCES:
                self._pause(now)
            else:
                self._try_next(now, node=self._sent[index].node)

    def _try_later(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        """Too much to do there, or too few replicas answered."""
        if reply.status is Status.BUSY:
            self._no_effect.add(index)
        self._refusal = reply.status
        if self._is_last(index):
            self._pause(now)

    # --- Tries

    @property
    def _last_is_answered(self) -> bool:
        return len(self._sent) - 1 in self._replied

    @property
    def _may_repeat(self) -> bool:
        return len(self._sent) - self._tries < MAX_REPEATS

    def _is_last(self, index: int) -> bool:
        return index == len(self._sent) - 1

    def _try_next(self, now: float, *, hedge: bool = False, node: int | None = None) -> None:
        """Try once more, by the next node or by `node`, if that may be: else wait for what is under way, or fail."""
        if self._tries < self._session.attempts:
            if node is None:
                node = self._session.entries.after(self._sent[-1].node)
            self._try(node, now, hedge=hedge)
        elif len(self._replied) < len(self._sent):
            self.deadline, self._waits_to_hedge = self._gives_up, False
        else:
            self._fail()

    def _try(self, node: int, now: float, *, hedge: bool = False, direct: bool = False) -> None:
        attempt = self._attempt if self.call.walks_around else 0
        self._attempt = min(self._attempt + 1, MAX_ATTEMPTS)
        self._tries += 1
        self._send(node, attempt, now, hedge=hedge, direct=direct)
        self._wait_from(now)

    def _wait_from(self, start: float) -> None:
        """The time until the next try; the last one waits to the end."""
        trip = self._session.entries.round_trip(self._sent[-1].node, self.call.op)
        self._waits_to_hedge = self._hedges_left > 0
        if self._tries == self._session.attempts:
            self.deadline, self._waits_to_hedge = self._gives_up, False
            return
        wait = trip.late if self._waits_to_hedge else min(trip.rto * 2**self._lost, MAX_RTO)
        if self._lost:
            wait *= 1 + self._session.rng.random() * JITTER
        self.deadline = min(start + wait, self._gives_up)

    def _pause(self, now: float) -> None:
        """Nothing is under way: wait as after a loss, then try again."""
        self._hedges_left = 0
        self._wait_from(now)
        if self._tries < self._session.attempts:
            # Where there is much time the tries that are left last for all of it.
            longest = max(MAX_PAUSE, (self._gives_up - now) / (self._session.attempts - self._tries))
            self.deadline = min(self.deadline, now + longest * (1 + self._session.rng.random() * JITTER))
        elif len(self._replied) == len(self._sent):
            self._fail()

    def _send(
        self, node: int, attempt: int, now: float, *, hedge: bool = False, direct: bool = False
    ) -> None:
        sent = Sent(node, attempt, self._session.cookie, now, hedge, direct)
        self._session.send(address(self._message, len(self._sent), sent), self.number)
        self._sent.append(sent)

    # --- The end without an answer

    def _fail(self) -> None:
        self.error = self._failure()

    def _failure(self) -> RequestError:
        """What the nodes said to the end; else a time-out."""
        if self._refusal is not None:
            return refused(self.call, Answer(self._refusal))
        if len(self._replied) == len(self._sent):
            return refused(self.call, Answer(Status.NOT_RESPONSIBLE))
        tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
        return RequestTimeout(f"{self.call}: no answer within {self._session.timeout:g} s and {tries}")


_TELLS_NO_TIME = frozenset({Status.UNCONFIRMED, Status.UNREACHABLE})
"""The first took as long as its coordinator was ready to wait, the second ended on the way."""
_NOT_THE_END: dict[Status, str] = {
    Status.COOKIE_NEEDED: Exchange._show_cookie.__name__,
    Status.NOT_RESPONSIBLE: Exchange._walked_too_far.__name__,
    Status.STORAGE_FAILED: Exchange._other_replica.__name__,
    Status.BUSY: Exchange._try_later.__name__,
    Status.UNCONFIRMED: Exchange._try_later.__name__,
    Status.UNREACHABLE: Exchange._other_way.__name__,
}
"""The methods for what else a reply may lead to than the end; a kind of request may have its own."""
