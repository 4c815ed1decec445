"""A read whose proof has the time in it: each try is proven anew. No I/O and no clock."""

from kdht.client._calls import Answer
from kdht.client._client_state import ClientState
from kdht.client._exchange import Exchange, Request
from kdht.client._versions import version_in
from kdht.wire._shared import Status


class TimedExchange(Exchange):
    """One such read until its answer or its failure."""

    __slots__ = ("_retimed", "_time")

    def __init__(self, state: ClientState, request: Request) -> None:
        super().__init__(state, request)
        self._time = 0
        """That in the proof, microseconds."""
        self._retimed = False
        """Whether a node said that this host's clock is off."""

    def _send(
        self, node: int, attempt: int, now: float, *, hedge: bool = False, direct: bool = False
    ) -> None:
        # Anew for each try: a node refuses a proof whose time is more than a minute off, and a read may be
        # retried for longer.
        self._time = self._state.clock.now()
        self._state.rights.prove(self._message, self.call, self._time)
        super()._send(node, attempt, now, hedge=hedge, direct=direct)

    def _take(self, reply: Answer, cookie: int, index: int, now: float) -> None:
        # Once only: a node whose clock keeps changing must not hold a read for ever.
        if reply.status is Status.BAD_VERSION and not self._retimed and self._may_repeat:
            self._retimed = True
            self._state.clock.refused(self._time, version_in(reply))
            sent = self._sent[index]
            self._repeat(sent.node, sent.attempt, now, direct=sent.direct)
            return
        super()._take(reply, cookie, index, now)
