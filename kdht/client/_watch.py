"""A watch: one WATCH request, its renewals, and the states of the key that the nodes tell. No I/O and no clock.

             start, lease / RENEWALS later, or closed port
                          |
                          v             deadline: next route, next node
      +---------+   +-----------+ ------+
      | granted |   | renewing  |       |
      +---------+   +-----------+ <-----+
           ^              |
           +--------------+-- no answer in time, or a final refusal --> error
             OK, NOT_FOUND

Answers and notifications look alike. They may be lost, doubled or late. Only a state newer than the last one counts,
and a renewal finds the missed ones. All renewals have the same request ID.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from kdht.client._calls import Answer, Call, record, refused
from kdht.client._client_state import ClientState
from kdht.client._datagram import Sent, address
from kdht.client._nodes import MAX_RTO
from kdht.client._record_checks import why_uncertified
from kdht.client._versions import version_in
from kdht.errors import RequestError, RequestTimeout
from kdht.wire import Record
from kdht.wire._shared import Status

# A caller that fetches nothing must not fill the memory. The last states matter: a watch tells the present, not
# the history.
MAX_EVENTS = 256
"""States that are kept if nobody fetches them: the last ones."""
_MAY_PASS = frozenset(
    {
        Status.NOT_RESPONSIBLE,
        Status.BUSY,
        Status.UNCONFIRMED,
        Status.STORAGE_FAILED,
        Status.UNREACHABLE,
    }
)
"""After these the next route is tried at the deadline."""
# Two renewals may be lost in a row before a lease runs out, and the changes missed meanwhile are found by the
# third.
RENEWALS = 3
"""In the time of one lease."""


class WatchExchange:
    """One watch until it is ended or fails. `events` are the states that nobody has fetched yet.

    `lease`: how long the nodes keep the watch without a renewal, seconds. Times are on the caller's clock.
    """

    def __init__(
        self,
        state: ClientState,
        call: Call,
        number: int,
        lease: int,
        now: float,
        on_event: Callable[[], None],
    ) -> None:
        """`on_event` is called when there is an event, or an error."""
        self.call = call
        self.number = number
        self.mask = 0  # its questions are never direct
        self.deadline = now
        self.error: RequestError | None = None
        self.events: deque[Any] = deque(maxlen=MAX_EVENTS)
        """Each a Record, or None for no record."""
        self._state = state
        self._on_event = on_event
        self._lease = lease
        self._last: Record | None = None
        self._told = False
        """Whether any state was told."""
        self._newest = 0
        """The newest version that was told, a deletion's too."""
        self._expires = inf
        """When the last record that was told expires."""
        self._round = 0
        """Renewals so far."""
        self._absent_in: int | None = None
        """The renewal in which a node first had neither record nor tombstone, after a record was told."""
        self._asked: dict[int, Sent] = {}
        """The last question to each node."""
        self._node = state.nodes.current
        self._attempt = self._losses = 0
        self._renewing = False
        self._gives_up = now
        self._time = 0
        """That in the last proof, microseconds."""
        self._retimed_in: int | None = None
        """The last renewal in which a node said that this host's clock is off."""

    @property
    def done(self) -> bool:
        return self.error is not None

    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None:
        """The last question to that node: all questions have the number 0."""
        return self._asked.get(node) if number == 0 and not direct else None

    def ended(self, now: float) -> None:
        """The session has dropped it after an error, which `on_event` has told."""

    def start(self, now: float) -> None:
        """Ask for the lease, or for its renewal."""
        self._begin(now)
        if self._state.nodes[self._node].dead:
            self._node = self._state.nodes.after(self._node)
        self._ask(now)

    def timed_out(self, now: float) -> None:
        """The deadline has passed: renew, ask elsewhere, or fail."""
        if not self._renewing:
            self.start(now)
        elif now >= self._gives_up:
            self._fail(RequestTimeout(f"{self.call}: no answer within {self._state.timeout:g} s"))
        else:
            self._state.nodes.missed(self._node, now, now)
            self._losses += 1
            self._attempt += 1
            self._node = self._state.nodes.after(self._node)
            self._ask(now)

    def refused_by(self, node: int, now: float) -> None:
        """That node's port is closed, so it tells nothing more. Ask a living one at once, otherwise wait."""
        if node != self._node:
            return
        nodes = self._state.nodes
        other = nodes.after(node)
        if not self._renewing:
            self._begin(now)
        if not nodes[other].dead:
            self._node = other
            self._ask(now)
        # All ports are closed. Nodes may restart, so the watch goes on until its time-out.
        # A wait is under way already. Restarting it at each ICMP error would end it never.
        elif self.deadline <= now:
            self._wait(now)

    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None:
        """An answer or a notification came to the question `sent`."""
        state = self._state
        state.cookie = cookie or state.cookie
        # No round trip: a notification answers no particular datagram.
        state.nodes.answered(sent.node, self.call.op, None, now)
        status = reply.status
        if status is Status.OK or status is Status.NOT_FOUND:
            if self._take(reply, now):
                self._renewing = False
                self.deadline = self._next_renewal(now)
        elif not self._renewing:
            return
        elif status is Status.COOKIE_NEEDED and cookie not in (0, self._asked[self._node].cookie):
            self._ask(now)
        elif status is Status.BAD_VERSION and self._retimed_in != self._round:
            self._retimed_in = self._round
            state.clock.refused(self._time, version_in(reply))
            self._ask(now)
        # With attempt 0 the table of the entry node is wrong just now, and the next attempt goes elsewhere.
        elif status is Status.NOT_RESPONSIBLE and self._attempt:
            self._attempt = -1  # past the replicas: the best route is next, at the deadline
        elif status not in _MAY_PASS:
            self._fail(refused(self.call, reply))

    def end(self, now: float) -> None:
        """Give the lease up. There is no answer to that; if it is lost, the lease runs out."""
        if self._asked:
            # A lease of 0 seconds ends it. Sent once: a lost one costs the nodes a few notifications until the
            # lease runs out.
            self._send((0).to_bytes(4, "big"), self._node, 0, now)

    def _next_renewal(self, now: float) -> float:
        """When to renew after a good answer."""
        return now + self._lease / RENEWALS

    def _take(self, reply: Answer, now: float) -> bool:
        """Note what an answer tells; whether it is as good as one to the last question."""
        if not self._take_record(reply, now):
            return False
        self._state.versions.take(self.call.key, reply, now)
        return True

    def _take_record(self, reply: Answer, now: float) -> bool:
        """Note the state that the key has now, if it is new; False for an answer that cannot be read."""
        found = None
        if reply.status is Status.OK:
            # A lie: the next route is tried at the deadline.
            reply, why = self._state.seal.open(self.call, reply)
            if why or why_uncertified(self.call, reply):
                return False
            try:
                found = record(reply)
            except RequestError as error:
                self._fail(error)
                return False
            # Late or doubled: a watch never goes back.
            if found.version < self._newest or (self._last and found.version == self._newest):
                return True
            self._newest = found.version
            self._expires = now + found.ttl if found.ttl else inf
            self._absent_in = None
        else:
            deleted = version_in(reply)
            is_late = deleted < self._newest if deleted else not self._believe_absence(now)
            if is_late:
                return True
            self._newest = max(self._newest, deleted)
            # Absent before and absent now: the same state twice is no event.
            if self._told and self._last is None:
                return True
        self._told, self._last = True, found
        self.events.append(found)
        self._on_event()
        return True

    def _believe_absence(self, now: float) -> bool:
        """Note an answer without record and tombstone. False while it may be older than the last record.

        Under loss or delay the answer to the first question may come after the first change. The same answer in a
        later renewal is believed: the record was deleted, and its tombstone dropped.
        """
        if self._last is None or now >= self._expires:
            return True
        if self._absent_in is None:
            self._absent_in = self._round
        return self._absent_in != self._round

    def _fail(self, error: RequestError) -> None:
        self.error = error
        self._on_event()

    # --- Out

    def _begin(self, now: float) -> None:
        self._renewing = True
        self._round += 1
        self._attempt = self._losses = 0
        self._gives_up, self.deadline = now + self._state.timeout, now

    def _ask(self, now: float) -> None:
        self._send(self.call.body, self._node, max(self._attempt, 0), now)
        self._wait(now)

    def _wait(self, now: float) -> None:
        trip = self._state.nodes[self._node].round_trips[self.call.op]
        self.deadline = min(now + min(trip.rto * 2**self._losses, MAX_RTO), self._gives_up)

    def _send(self, body: bytes, node: int, attempt: int, now: float) -> None:
        # All questions have the number 0, so a notification to any of them is recognised.
        state, call = self._state, self.call._replace(body=body)
        message = state.rights.pack(call, self.number)
        self._time = state.clock.now()
        state.rights.prove(message, call, self._time)
        sent = self._asked[node] = Sent(node, attempt, self._state.cookie, now)
        state.outgoing.add(address(message, 0, sent, state.nodes[node].port), self.number)
