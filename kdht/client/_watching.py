"""A watch: one WATCH, its renewals, and what its answers tell of the key. No I/O and no clock.

Answers and notifications look alike and may be lost, doubled or late: only what is newer than the last
state counts, and the renewal, at a third of the lease, finds what was missed. A renewal has the
same request ID; after a silence it goes by the next way, through the next node.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdht.client._calls import Answer, Call, record, refused
from kdht.client._datagram import Sent, address
from kdht.client._entries import MAX_RTO
from kdht.client._versions import version_in
from kdht.errors import RequestError, RequestTimeout
from kdht.wire import Record, pack_request
from kdht.wire._shared import TRY_BITS, Status

if TYPE_CHECKING:
    from kdht.client._session import Session

MAX_EVENTS = 256
"""Of changes that nobody fetches, the last so many are kept."""
_MAY_PASS = frozenset(
    {
        Status.NOT_RESPONSIBLE,
        Status.BUSY,
        Status.UNCONFIRMED,
        Status.STORAGE_FAILED,
        Status.UNREACHABLE,
    }
)
"""After these the next way is tried at the time that is set."""
RENEWALS = 3
"""In the time of one lease."""


class Watching:
    """One watch until it is ended or fails: `events` are the states that nobody has fetched yet."""

    def __init__(self, session: "Session", call: Call, number: int, lease: int, now: float) -> None:
        self.call = call
        self.number = number
        self.deadline = now
        self.error: RequestError | None = None
        self.events: deque[Record | None] = deque(maxlen=MAX_EVENTS)
        self.on_event: Callable[[], None] = lambda: None
        """Called when there is an event, or an error."""
        self._session = session
        self._lease = lease
        self._last: Record | None = None
        self._told = False
        self._newest = 0
        self._asked: dict[int, Sent] = {}
        """The last question to each node."""
        self._node = session.entries.current
        self._attempt = self._lost = 0
        self._renewing = False
        self._gives_up = now

    @property
    def done(self) -> bool:
        return self.error is not None

    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None:
        return self._asked.get(node) if number == 0 and not direct else None

    def start(self, now: float) -> None:
        """Ask for the lease, or for its renewal."""
        self._begin(now)
        if self._session.entries[self._node].dead:
            self._node = self._session.entries.after(self._node)
        self._ask(now)

    def timed_out(self, now: float) -> None:
        if not self._renewing:
            self.start(now)
        elif now >= self._gives_up:
            self.error = RequestTimeout(f"{self.call}: no answer within {self._session.timeout:g} s")
            self.on_event()
        else:
            self._session.entries.missed(self._node, now, now)
            self._lost += 1
            self._attempt += 1
            self._ask_elsewhere(now)

    def refused_by(self, node: int, now: float) -> None:
        """What was to be told through that node does not come any more: at once to one that lives, else after a while."""
        if node != self._node:
            return
        entries = self._session.entries
        other = entries.after(node)
        if not self._renewing:
            self._begin(now)
        if not entries[other].dead:
            self._node = other
            self._ask(now)
        elif self.deadline <= now:
            self._wait(now)

    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None:
        session = self._session
        session.cookie = cookie or session.cookie
        session.entries.answered(sent.node, self.call.op, None, now)
        status = reply.status
        if status is Status.OK or status is Status.NOT_FOUND:
            session.versions.take(self.call.key, reply, now)
            if self._take(reply):
                self._renewing = False
                self.deadline = now + self._lease / RENEWALS
        elif not self._renewing:
            return
        elif status is Status.COOKIE_NEEDED and cookie not in (0, self._asked[self._node].cookie):
            self._ask(now)
        elif status is Status.NOT_RESPONSIBLE and self._attempt:
            # Past the replicas: the best way again, after the time that is set.
            self._attempt = -1
        elif status not in _MAY_PASS:
            self.error = refused(self.call, reply)
            self.on_event()

    def end(self, now: float) -> None:
        """Give the lease up. Nobody answers that, and if it is lost the lease ends by itself."""
        if self._asked:
            self._send((0).to_bytes(4, "big"), self._node, 0, now)

    def _take(self, reply: Answer) -> bool:
        """What the key holds now; False for an answer that cannot be read."""
        found = None
        if reply.status is Status.OK:
            try:
                found = record(reply)
            except RequestError as error:
                self.error = error
                self.on_event()
                return False
            if found.version < self._newest or (self._last and found.version == self._newest):
                return True
            self._newest = found.version
        else:
            deleted = version_in(reply)
            if deleted and deleted < self._newest:
                return True
            self._newest = max(self._newest, deleted)
            if self._told and self._last is None:
                return True
        self._told, self._last = True, found
        self.events.append(found)
        self.on_event()
        return True

    # --- Out

    def _begin(self, now: float) -> None:
        self._renewing = True
        self._attempt = self._lost = 0
        self._gives_up, self.deadline = now + self._session.timeout, now

    def _ask_elsewhere(self, now: float) -> None:
        self._node = self._session.entries.after(self._node)
        self._ask(now)

    def _ask(self, now: float) -> None:
        self._send(self.call.body, self._node, max(self._attempt, 0), now)
        self._wait(now)

    def _wait(self, now: float) -> None:
        trip = self._session.entries[self._node].round_trips[self.call.op]
        self.deadline = min(now + min(trip.rto * 2**self._lost, MAX_RTO), self._gives_up)

    def _send(self, body: bytes, node: int, attempt: int, now: float) -> None:
        message = pack_request(self.call.op, self.call.key, self.number << TRY_BITS, body)
        sent = self._asked[node] = Sent(node, attempt, self._session.cookie, now)
        self._session.send(address(message, 0, sent), self.number)
