"""A GET or QUORUM_GET: hedged, perhaps answered by any node, never going back in time.

An answer that is older than what this client has seen is kept: it is believed when all replicas have given theirs, twice, and nobody had
better, for then the newer one is lost; while one of them is silent it may have it. The record of a node that is none of the
replicas is kept too, and believed when all were asked twice, silent or not, if it is not older. The first such answer leads to the next
replica at once, the others after the time that an answer usually takes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdht.client._calls import Answer, Call, refused
from kdht.client._exchange import Exchange
from kdht.client._versions import version_in
from kdht.errors import RequestError, Unconfirmed
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

if TYPE_CHECKING:
    from kdht.client._session import Session

LAPS = 2
"""So often the replicas are asked, for some may be silent, or about to learn more, before less is believed."""

_LOST = "the replicas have only what is older than this client has seen; what was newer may be lost: ask again to get what there is"


class Read(Exchange):
    """One read until its answer or its failure."""

    __slots__ = ("_hearsay", "_old", "_spread")

    def __init__(
        self,
        session: "Session",
        call: Call,
        number: int,
        now: float,
        on_done: Callable[[Exchange, float], None] | None = None,
    ) -> None:
        super().__init__(session, call, number, now, on_done)
        self._old: Answer | None = None
        """The newest of the answers that were too old."""
        self._hearsay: Answer | None = None
        """The newest record of those that are no replicas."""
        self._spread = 0
        """By which way the first try went, if not by the best."""

    def start(self, now: float) -> None:
        """The first try, and beside it perhaps the question whether a dead node lives again."""
        session = self._session
        session.budget.request()
        probed = session.entries.to_probe(now)
        if probed is not None:
            self._send(probed, 0, now)
        self._spread = self._attempt = session.ways.draw(session.rng)
        self._try(session.entries.current, now, direct=session.direct.wanted(now))
        if self._spread:
            self._attempt = 0  # the best way is still to be gone

    def _goes_on(self, reply: Answer, cookie: int, index: int, now: float) -> bool:
        if reply.status is Status.OK or reply.status is Status.NOT_FOUND:
            if self._session.versions.take(self.call.key, reply, now):
                return False
            self._ask_on(reply, index, now)
            return True
        return super()._goes_on(reply, cookie, index, now)

    def _ask_on(self, reply: Answer, index: int, now: float) -> None:
        """This replica lags behind."""
        first = self._old is None
        self._old = _newer(self._old, reply)
        if not self._is_last(index):
            return
        if first:
            self._try_next(now)
        else:
            self._hedges_left = 0
            self._wait_from(self._sent[index].at)
            if self._used_up:
                self._fail()

    @property
    def _used_up(self) -> bool:
        return self._tries == self._session.attempts and len(self._replied) == len(self._sent)

    def _walked_too_far(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        if len(reply.body) >= shared.RECORD_LEN:
            heard = reply._replace(status=Status.OK)
            if self._session.versions.is_old(self.call.key, heard):
                self._old = _newer(self._old, heard)
            else:
                self._hearsay = _newer(self._hearsay, heard)
        if self._is_last(index):
            attempt = self._sent[index].attempt
            if self._spread and self._tries == 1:
                self._session.ways.ended_at(attempt)
            elif attempt and self._laps + 1 >= LAPS and (best := self._best) is not None:
                self._believe(best, now)
                return
        super()._walked_too_far(reply, cookie, index, now)

    @property
    def _best(self) -> Answer | None:
        """What there is to believe: too little for a quorum read."""
        if self.call.op == Op.QUORUM_GET:
            return None
        return self._hearsay or (None if self._is_one_silent else self._old)

    @property
    def _is_one_silent(self) -> bool:
        """Whether a way was gone that no answer came back from."""
        answered = {self._sent[index].attempt for index in self._replied}
        return any(sent.attempt not in answered for sent in self._sent)

    def _believe(self, best: Answer, now: float) -> None:
        versions, key = self._session.versions, self.call.key
        is_old = versions.is_old(key, best)
        versions.forget(key)
        if is_old:
            # Nodes that see the cluster differently may have led all ways past the one that has the newer record.
            self.error = Unconfirmed(f"{self.call}: {_LOST}", Status.UNCONFIRMED.name)
            return
        versions.take(key, best, now)
        self.answer = best

    def _fail(self) -> None:
        """There is nothing better than an old record, or another node's, if there is one."""
        best = self._best
        if best is None:
            super()._fail()
        else:
            self._believe(best, self.deadline)

    def _failure(self) -> RequestError:
        if self._refusal is None and self._old is not None:
            return refused(self.call, Answer(Status.UNCONFIRMED))
        return super()._failure()


def _newer(one: Answer | None, other: Answer) -> Answer:
    return other if one is None or version_in(other) > version_in(one) else one
