"""A GET or QUORUM_GET: hedged, perhaps answered directly, and never older than what this client has seen.

Two kinds of record are kept but not believed at once:

    old     older than a version that this client has seen. Believed once every route has answered, in LAPS laps,
            and none had better: then the newer record is lost. A silent replica may still have it.
    stray   from a node that is none of the replicas. Believed after LAPS laps, even with silent replicas, if not old.

A quorum read believes neither. The first old record leads to the next replica at once, later ones after the usual
time of an answer.
"""

from kdht.client._calls import Answer
from kdht.client._client_state import ClientState
from kdht.client._exchange import Request
from kdht.client._record_checks import why_uncertified
from kdht.client._timed import TimedExchange
from kdht.client._versions import version_in
from kdht.errors import RequestError, Unconfirmed
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

_ANSWERS = frozenset({Status.OK, Status.NOT_FOUND})
_TELLS_RECORDS = frozenset({Status.OK, Status.NOT_RESPONSIBLE})
# Once is not enough: a replica that joined a moment ago may be asked in the first lap, and have the record in
# the second.
LAPS = 2
"""How often all replicas are asked before less is believed: some may be silent, or about to catch up."""

BEHIND = "the replicas that answered have only an older record than this client has seen: read again"
LOST = (
    "the replicas have only an older record than this client has seen; the newer one may be lost: "
    "read again to get the older one"
)


class Read(TimedExchange):
    """One read until its answer or its failure."""

    __slots__ = ("_first_route", "_old", "_stray", "_uncertified")

    def __init__(self, state: ClientState, request: Request) -> None:
        super().__init__(state, request)
        self._old: Answer | None = None
        """The newest of the old records, or a NOT_FOUND."""
        self._stray: Answer | None = None
        """The newest of the stray records that is not old."""
        self._uncertified = ""
        """Why the last record that proves nothing is not believed."""
        self._first_route = 0
        """The first try's `attempt`, drawn if reads are spread."""

    def start(self, now: float) -> None:
        """Send the first try; before it, perhaps, a probe of a dead node."""
        state, policy = self._state, self._policy
        # Each read earns a tenth of a hedge.
        # By reads, not by time: so hedges stay a tenth of the load, whatever the load is.
        state.budget.request()
        probed = state.nodes.to_probe(now)
        # Beside the read, so a node that is still dead costs the read nothing.
        if probed is not None:
            self._send(probed, 0, now)
        self._first_route = policy.attempt = state.routes.draw(state.rng)
        direct = state.direct.wanted(now)
        # Only the best route ends at the owner.
        at_owner = direct and not self._first_route
        entry = state.owners.entry(self.call.key) if at_owner else state.nodes.current
        self._try(entry, now, direct=direct)
        # Spread reads begin anywhere. A second try needs certainty more than an even load.
        if self._first_route:
            policy.attempt = 0  # the best route has not been tried yet

    def _take(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        if reply.status is not Status.NOT_FOUND and reply.status in _TELLS_RECORDS:
            why = why_uncertified(self.call, reply)
            if not why:
                reply, why = self._state.seal.open(self.call, reply)
            if why:
                self._disbelieve(why, index, now)
                return
        if reply.status in _ANSWERS:
            # What this client has read or written before must not disappear again, even if the owner was away
            # and lacks it.
            if self._state.versions.take(self.call.key, reply, now):
                self._conclude(reply, index, now)
            else:
                self._keep_old(reply, index, now)
            return
        if reply.status is Status.NOT_RESPONSIBLE:
            self._keep_stray(reply)
            if self._is_last(index) and self._ends_beyond_replicas(index, now):
                return
        super()._take(reply, cookie, index, now)

    def _disbelieve(self, why: str, index: int, now: float) -> None:
        """A node lies, or its disk was altered: ask another replica."""
        self._uncertified = why
        self._refusal = Status.STORAGE_FAILED
        if self._is_last(index):
            self._try_next(now)

    def _keep_old(self, reply: Answer, index: int, now: float) -> None:
        """This replica lags behind: ask another."""
        # The newest of the old ones is kept: should the newer record be lost, this is the best that is left.
        is_first = self._old is None
        self._old = _newer(self._old, reply)
        if not self._is_last(index):
            return
        # At once: most likely one replica lags behind, and the next has the record.
        if is_first:
            self._try_next(now)
            return
        sent = self._sent[index]
        self.deadline = self._policy.wait_without_hedge(sent.at, sent.node)
        if self._policy.is_used_up and self._all_answered:
            self._fail()

    def _keep_stray(self, reply: Answer) -> None:
        if len(reply.body) < shared.RECORD_LEN:
            return
        stray = reply._replace(status=Status.OK)
        # A stray record that is also old is the weaker kind: it counts only with all replicas heard.
        if self._state.versions.is_old(self.call.key, stray):
            self._old = _newer(self._old, stray)
        else:
            self._stray = _newer(self._stray, stray)

    def _ends_beyond_replicas(self, index: int, now: float) -> bool:
        """Whether the last try, which ended beside the replicas, has completed enough laps."""
        # `attempt` 0 ended beside the replicas: the tables are wrong just now, and say nothing about the number
        # of replicas.
        policy, attempt = self._policy, self._sent[index].attempt
        if self._first_route and policy.tries == 1:
            self._state.routes.ended_at(attempt)
        elif attempt and policy.laps + 1 >= LAPS and (best := self._best) is not None:
            self._believe(best, now)
            return True
        return False

    @property
    def _best(self) -> Answer | None:
        """The record to believe if no better one comes."""
        if self.call.op == Op.QUORUM_GET:
            # A quorum read promises the newest record, so it never believes less.
            return None
        # A silent replica may have the newer record. Believing an old one now could lose an acknowledged write
        # for this reader.
        return self._stray or (None if self._is_one_silent else self._old)

    @property
    def _is_one_silent(self) -> bool:
        """Whether no answer came back by one of the routes."""
        answered = {self._sent[index].attempt for index in self._replied}
        return any(sent.attempt not in answered for sent in self._sent)

    def _believe(self, best: Answer, now: float) -> None:
        """End with this record; an old one is an error first, and the answer of the next read."""
        versions, key = self._state.versions, self.call.key
        is_old = versions.is_old(key, best)
        # Told once. The next read takes what there is.
        versions.forget(key)
        if is_old:
            # Not simply the answer: nodes that see the cluster differently may have led all routes past the newer record.
            self.error = self._unconfirmed(LOST)
            return
        versions.take(key, best, now)
        self.answer = best

    def _fail(self) -> None:
        best = self._best
        if best is None:
            super()._fail()
        else:
            self._believe(best, self.deadline)

    def _failure(self) -> RequestError:
        if self._uncertified:
            return RequestError(f"{self.call}: {self._uncertified}")
        if self._refusal is None and self._old is not None:
            return self._unconfirmed(BEHIND)
        return super()._failure()

    def _unconfirmed(self, why: str) -> Unconfirmed:
        return Unconfirmed(f"{self.call}: {why}", Status.UNCONFIRMED.name)


def _newer(one: Answer | None, other: Answer) -> Answer:
    return other if one is None or version_in(other) > version_in(one) else one
