"""A PUT, DELETE, ANNOUNCE or WITHDRAW: one version in all its tries, and never a wrong outcome.

Every answer but OK and UNCONFIRMED means: this try changed nothing. A lost, late or UNCONFIRMED try may have been done.
The network may double a datagram, and two nodes answer: if one of them says UNCONFIRMED, the other's refusal ends no doubt.
With such a try the write is **in doubt**:

    answer         all other tries changed nothing      in doubt
    OK             done                                 done
    CONFLICT       Conflict                             Unconfirmed
    BAD_VERSION    again, with a greater version        ask the other replicas; then Unconfirmed
    BUSY, outbid   the fourth time: as BAD_VERSION      as other refusals
    other refusal  again later; at last that error      again later; at last Unconfirmed

BUSY with a version: a condition under way has promised that one, and nothing newer is stored yet. So the refusal may end.
A copy of the same datagram could then be done, beside the same write under a greater version. So the version stays at first.

Before a write in doubt ends Unconfirmed it is **held**: for the usual time of an answer it waits for the open tries. If
each of them turns out to have changed nothing, the doubt is over and the left column applies.
"""

from kdht.client._calls import REASONS, Answer
from kdht.client._client_state import ClientState
from kdht.client._datagram import Sent
from kdht.client._exchange import Exchange, Request
from kdht.client._versions import version_in
from kdht.errors import RequestError, Unconfirmed
from kdht.wire._shared import HEADER_LEN, Op, Status
from kdht.wire.certified import CERTIFIED

# As many as a key has replicas by default: each remembers its confirmed writes for a minute, so asking more
# brings nothing.
MAX_DOUBTS = 3
"""BAD_VERSIONs until a write in doubt is given up: one of the replicas may still know that it was done."""

MAX_OUTBID = 4
"""Refusals for a promise until a greater version is chosen. A condition takes a few round trips, so this one belongs to a
coordinator that has died."""

_OK = Status.OK
"""Looked up once: every PUT compares with it, and an attribute of an enum is slow in Python 3.11."""
_WHY = {Status.BAD_VERSION: "the key has a newer version"}

_DELETES = frozenset({Op.DELETE, Op.WITHDRAW})
_VERSION = slice(HEADER_LEN, HEADER_LEN + 8)


class WriteExchange(Exchange):
    """One write until it is known to be done, or as much as can be known."""

    __slots__ = ("_doubts", "_held", "_no_effect", "_outbid", "_renewals", "_since", "_unsure", "version")

    def __init__(self, state: ClientState, request: Request) -> None:
        super().__init__(state, request)
        self.version = 0
        """The write's own."""
        self._since = 0
        """The first datagram with it."""
        self._no_effect: set[int] = set()
        """Datagrams with a reply that means: nothing was changed."""
        self._unsure: set[int] = set()
        """Datagrams that may have been done, whatever other replies to them say."""
        self._renewals = self._doubts = self._outbid = 0
        self._held: tuple[Answer, int] | None = None
        """A refusal in doubt, and the number of its datagram."""
        # Chosen once, before the first try, so that no late try is another write. It is above all that this
        # client knows, so its own writes of a key are in order.
        self._take_version(state.versions.known(self.call.subject) + 1)

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
        # The last open try has been answered, so the doubt has an end, one way or the other.
        if self._held is not None and not self.done and self._all_answered:
            (held, number), self._held = self._held, None
            if held.status is Status.BAD_VERSION:
                self._choose_version(held, number, now)
            else:
                self._conclude(held, number, now)

    def _take(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        status = reply.status
        if status is _OK or status in self.call.accepts:
            # A copy of a refused datagram. If the same write is on its way under a greater version, that one's end is
            # the write's.
            if self._since < len(self._sent) and index < self._since:
                self._may_be_done(index)
                return
            if index < self._since:
                self.version = 0  # done, but not under this one
        else:
            if status is Status.UNCONFIRMED:
                self._may_be_done(index)
            elif index not in self._unsure:
                # By datagram, not by try: the network may double a datagram, and a repetition may be carried
                # out.
                self._no_effect.add(index)
            if self._held is not None:
                return
            if status is Status.BAD_VERSION:
                # A refusal of an older version is out of date: the current version was chosen with the same
                # knowledge.
                if index >= self._since:
                    self._choose_version(reply, index, now)
                return
            if status is Status.BUSY and index >= self._since and self._is_outbid(reply):
                self._choose_version(reply, index, now)
                return
        super()._take(reply, cookie, index, now)

    def _conclude(self, reply: Answer, index: int, now: float) -> None:
        versions, key = self._state.versions, self.call.subject
        if reply.status is not _OK and reply.status not in self.call.accepts:
            if self._is_in_doubt:
                self._hold(reply, index, now)
                return
        elif self.call.op in _DELETES:
            # The tombstone's version, so that a later read at a lagging replica does not bring the record back.
            versions.gone(key, self.version)
        # A coordinator without the write's own version answers with another one. Then this client does not know
        # which record stands.
        elif version_in(reply) == self.version:
            versions.stands(key, reply, now)
        super()._conclude(reply, index, now)

    # --- Its version

    def _take_version(self, least: int) -> None:
        if self.call.version:
            self.version = self.call.version
            self._state.rights.prove(self._message, self.call, self.version)
            return
        condition = self.call.condition
        least = max(least, (condition or 0) + 1)
        self.version = self._state.clock.next(least, alone=condition is not None)
        self._message[_VERSION] = self.version.to_bytes(8, "big")
        # The proof last: it covers the sealed value.
        self._state.seal.close(self._message, self.call, self.version)
        self._state.rights.prove(self._message, self.call, self.version)
        self._since = len(self._sent)

    def _is_outbid(self, reply: Answer) -> bool:
        """Whether the promise of a greater version has been in the way for too long."""
        told = version_in(reply)
        self._outbid += told > 0
        return told > 0 and self._outbid >= MAX_OUTBID and not (self.call.version or self._is_in_doubt)

    def _choose_version(self, reply: Answer, index: int, now: float) -> None:
        """BAD_VERSION: the key has a newer version, or this host's clock is far off."""
        told = version_in(reply)
        if not self.call.version and told >= CERTIFIED:
            # No ordinary write may go there, so it is no reason to refuse one: the node lies.
            self._ask_elsewhere(index, now)
            return
        self._refusal = Status.BAD_VERSION
        if not self.call.version:
            # Before the doubt is looked at: the clock is off for all later writes, whatever becomes of this
            # one.
            self._state.clock.refused(self.version, told)
        if self._is_in_doubt:
            self._ask_another(reply, index, now)
        elif self.call.version:
            super()._conclude(reply, index, now)  # a Conflict: its version is signed
        else:
            self._renew(told, self._sent[index], now)

    def _renew(self, told: int, sent: Sent, now: float) -> None:
        """Try again with a greater version, by the same route."""
        self._renewals += 1
        self._outbid = 0
        self._take_version(max(self._state.versions.known(self.call.subject), told) + 1)
        # That route led to a replica that knows the key's version, so it is the most likely to take the next
        # one.
        self._policy.attempt = sent.attempt
        self._pause_or_try(self._renewals > 1, now, sent.node)  # a second time: others write the key too

    def _ask_another(self, reply: Answer, index: int, now: float) -> None:
        """Another replica may know that the write was done."""
        self._doubts += 1
        if self._doubts >= MAX_DOUBTS or self._policy.is_used_up:
            self._hold(reply, index, now)
        elif self._is_last(index):
            self._try_next(now)

    def _ask_elsewhere(self, index: int, now: float) -> None:
        """As after a failed disk."""
        self._refusal = Status.STORAGE_FAILED
        if self._is_last(index):
            self._try_next(now)

    # --- Doubt

    @property
    def _is_in_doubt(self) -> bool:
        """Whether a try may have been done, as far as is known."""
        # Silence counts as possibly done. Only a reply that says otherwise ends the doubt.
        return len(self._no_effect) < len(self._sent)

    def _may_be_done(self, index: int) -> None:
        self._unsure.add(index)
        self._no_effect.discard(index)

    def _hold(self, reply: Answer, index: int, now: float) -> None:
        """Wait for the open tries."""
        if self._all_answered:
            self.error = self._doubtful(reply.status)
            return
        self._held = reply, index
        # A definite answer is worth a moment: "unconfirmed" leaves work to the caller.
        self.deadline = self._policy.wait_for_the_others(now, self._sent[-1].node)

    def _doubtful(self, status: Status) -> RequestError:
        doubt = "it may have been done or not: one try is unconfirmed or had no answer, another was refused"
        why = _WHY.get(status, REASONS[status][1])
        return Unconfirmed(f"{self.call}: {doubt}: {why}", Status.UNCONFIRMED.name)

    def _failure(self) -> RequestError:
        if self._refusal not in (None, Status.UNCONFIRMED) and self._is_in_doubt:
            return self._doubtful(self._refusal)
        return super()._failure()
