"""A PUT or DELETE: one version in all its tries, and no wrong word about what became of it.

A try is **refused** where its answer says that nothing was changed. While another one may have been carried out (it was lost,
is late, or UNCONFIRMED), the write is **in doubt**. What follows:

    answer         without doubt                           in doubt
    OK             it is done                              it is done
    CONFLICT       Conflict                                Unconfirmed
    BAD_VERSION    again, with a greater version           the other replicas are asked; then Unconfirmed
    other refusal  again later, and in the end that error  again later, and in the end Unconfirmed

An outcome in doubt waits, as long as an answer usually takes, for the tries that have none.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdht.client._calls import REFUSALS, Answer, Call
from kdht.client._datagram import Sent
from kdht.client._exchange import Exchange
from kdht.client._versions import version_in
from kdht.errors import RequestError, Unconfirmed
from kdht.wire._shared import HEADER_LEN, Op, Status

if TYPE_CHECKING:
    from kdht.client._session import Session

MAX_DOUBTS = 3
"""Replicas that may say BAD_VERSION of a write in doubt before it is given up: one of them may still know that it was done."""

_WHY = {Status.BAD_VERSION: "a newer version stands"}

_VERSION = slice(HEADER_LEN, HEADER_LEN + 8)


class Write(Exchange):
    """One write until it is known to be done, or what else is known of it."""

    __slots__ = ("_doubts", "_held", "_renewals", "_since", "version")

    def __init__(
        self,
        session: "Session",
        call: Call,
        number: int,
        now: float,
        on_done: Callable[[Exchange, float], None] | None = None,
    ) -> None:
        super().__init__(session, call, number, now, on_done)
        self.version = 0
        """The write's own."""
        self._since = 0
        """The first datagram that has it."""
        self._renewals = self._doubts = 0
        self._held: tuple[Answer, int] | None = None
        """A refusal in doubt, and which datagram's: it waits for the other tries' answers."""
        self._take_version(session.versions.known(call.key) + 1)

    def timed_out(self, now: float) -> None:
        if self._held is None:
            super().timed_out(now)
        else:
            self.error = self._doubtful(self._held[0].status)

    def refused_by(self, node: int, now: float) -> None:
        if self._held is None:
            super().refused_by(node, now)

    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None:
        super().received(reply, cookie, index, sent, now)
        if self._held is not None and not self.done and len(self._replied) == len(self._sent):
            (held, number), self._held = self._held, None
            if held.status is Status.BAD_VERSION:
                self._choose_version(held, number, now)
            else:
                self._conclude(held, number, now)

    def _goes_on(self, reply: Answer, cookie: int, index: int, now: float) -> bool:
        status = reply.status
        if status is Status.OK or status in self.call.accepts:
            return False
        if status is not Status.UNCONFIRMED:
            self._no_effect.add(index)
        if self._held is not None:
            return True
        if status is Status.BAD_VERSION:
            if index >= self._since:
                self._choose_version(reply, index, now)
            return True
        return super()._goes_on(reply, cookie, index, now)

    def _conclude(self, reply: Answer, index: int, now: float) -> None:
        versions, key = self._session.versions, self.call.key
        if reply.status is not Status.OK and reply.status not in self.call.accepts:
            if self._in_doubt():
                self._hold(reply, index, now)
                return
        elif self.call.op == Op.DELETE:
            versions.gone(key, self.version)
        else:
            versions.stands(key, reply, now)
        super()._conclude(reply, index, now)

    # --- Its version

    def _take_version(self, least: int) -> None:
        condition = self.call.condition
        least = max(least, (condition or 0) + 1)
        self.version = self._session.clock.next(least, alone=condition is not None)
        self._message[_VERSION] = self.version.to_bytes(8, "big")
        self._since = len(self._sent)

    def _choose_version(self, reply: Answer, index: int, now: float) -> None:
        """What stands is newer, or this host's clock is far off."""
        told = version_in(reply)
        self._session.clock.refused(self.version, told)
        self._refusal = Status.BAD_VERSION
        if not self._in_doubt():
            self._renewals += 1
            self._take_version(max(self._session.versions.known(self.call.key), told) + 1)
            self._attempt = self._sent[index].attempt
            if self._renewals == 1:
                self._try_next(now, node=self._sent[index].node)
            else:
                self._pause(now)  # others write the key too
            return
        self._doubts += 1
        if self._doubts >= MAX_DOUBTS or self._tries == self._session.attempts:
            self._hold(reply, index, now)
        elif self._is_last(index):
            self._try_next(now)

    # --- Doubt

    def _in_doubt(self) -> bool:
        """Whether a try may have been carried out, as far as is known."""
        return len(self._no_effect) < len(self._sent)

    def _hold(self, reply: Answer, index: int, now: float) -> None:
        """Wait for the tries that have no answer yet."""
        if len(self._replied) == len(self._sent):
            self.error = self._doubtful(reply.status)
            return
        self._held = reply, index
        self._hedges_left, self._waits_to_hedge = 0, False
        trip = self._session.entries.round_trip(self._sent[-1].node, self.call.op)
        self.deadline = min(now + trip.rto, self._gives_up)

    def _doubtful(self, status: Status) -> RequestError:
        text = f"{self.call}: it may have been done or not: of one try nothing is known for certain, of another: "
        return Unconfirmed(text + _WHY.get(status, REFUSALS[status][1]), Status.UNCONFIRMED.name)

    def _failure(self) -> RequestError:
        if self._refusal not in (None, Status.UNCONFIRMED) and self._in_doubt():
            return self._doubtful(self._refusal)
        return super()._failure()
