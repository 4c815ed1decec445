"""All requests of one client. Each one learns for the next. No I/O and no clock.

The driver of a Session has four duties. After every call it sends the datagrams in `outbox`, and empties that list. It
hands in received datagrams (`receive`). It reports closed ports (`refused`). It calls `wake` at the time of
`next_wake`. Each request calls its `on_done` at its end; that may start other requests.

All times are seconds on a clock of the caller. The clock must not run backwards.
"""

import heapq
import struct
from collections.abc import Callable
from random import Random
from typing import Protocol

from kdht.client._calls import Answer, Call
from kdht.client._client_state import ClientState
from kdht.client._clock import WriteClock
from kdht.client._datagram import MAX_SENT, RequestOutbox, Sent, address
from kdht.client._direct import DirectAnswers
from kdht.client._exchange import Exchange, Request
from kdht.client._learning import Learner, Learnt, neighbours
from kdht.client._nodes import KnownNodes
from kdht.client._owners import Owners
from kdht.client._reads import Read
from kdht.client._rights import NO_RIGHTS, Rights
from kdht.client._routes import ReadRoutes
from kdht.client._seal import NO_SEAL, Seal
from kdht.client._timed import TimedExchange
from kdht.client._watch import WatchExchange
from kdht.client._writes import WriteExchange
from kdht.errors import BadPacket
from kdht.wire import HEADER, STATUS_OF, check_form, pack_request
from kdht.wire._shared import HEADER_LEN, TRY_BITS, Flag, Op, Status

_VERSION = slice(HEADER_LEN, HEADER_LEN + 8)
"""Of a write's record."""
_DRAWN = struct.Struct("64Q")
"""Request numbers that are drawn at once."""
_REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
_TELLS_OWNER = frozenset({Status.OK, Status.NOT_FOUND})
"""The statuses of a direct answer by the best route that only the owner gives."""
_KINDS: dict[Op, type[Exchange]] = {
    Op.GET: Read,
    Op.QUORUM_GET: Read,
    Op.PUT: WriteExchange,
    Op.DELETE: WriteExchange,
    Op.ANNOUNCE: WriteExchange,
    Op.WITHDRAW: WriteExchange,
    Op.MEMBERS: TimedExchange,
}


class Pending(Protocol):
    """A request or a watch, as the session sees it."""

    @property
    def call(self) -> Call: ...
    @property
    def number(self) -> int: ...
    @property
    def mask(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def done(self) -> bool: ...
    def start(self, now: float) -> None: ...
    def asked(self, number: int, node: int, *, direct: bool) -> Sent | None: ...
    def received(self, reply: Answer, cookie: int, index: int, sent: Sent, now: float) -> None: ...
    def timed_out(self, now: float) -> None: ...
    def refused_by(self, node: int, now: float) -> None: ...
    def ended(self, now: float) -> None: ...


class Session:
    """A client without sockets. `nodes`: how many it was given; `node_name`: how each is called in messages.

    `timeout`, seconds, and `attempts` limit each request. `unix_us`: microseconds since 1970, for the versions of writes.
    `rights`: the client's token and scope. `seal`: what is done to values. `direct`: any node may answer a read, to an
    unconnected socket. `spread`: they go to any replica. `on_learnt` is called with each node named by the cluster; without
    it the client learns none.
    """

    def __init__(
        self,
        nodes: int,
        *,
        timeout: float,
        attempts: int,
        rng: Random,
        unix_us: Callable[[], int],
        rights: Rights = NO_RIGHTS,
        node_name: Callable[[int], str] = "node {}".format,
        direct: bool = False,
        spread: bool = False,
        seal: Seal = NO_SEAL,
        on_learnt: Learnt | None = None,
    ) -> None:
        self.ignored = 0
        """Datagrams that answer no request under way."""
        self._pending: dict[int, Pending] = {}
        self._deadlines: list[tuple[float, int]] = []
        """A heap. Outdated deadlines stay in it until they come to its top."""
        known = KnownNodes(nodes)
        self.state = ClientState(
            timeout=timeout,
            attempts=attempts,
            rng=rng,
            node_name=node_name,
            nodes=known,
            direct=DirectAnswers(direct),
            owners=Owners(known),
            routes=ReadRoutes(spread),
            clock=WriteClock(unix_us, rng),
            outgoing=RequestOutbox(self._pending),
            rights=rights,
            seal=seal,
        )
        self.outbox = self.state.outgoing.datagrams
        """The datagrams to send. Empty this list in place."""
        self._learner = Learner(self.state.nodes, on_learnt)
        self._was_answered = False
        self._numbers: list[int] = []

    # --- Requests and watches

    def start(
        self, call: Call, now: float, on_done: Callable[[Exchange, float], None] | None = None
    ) -> Exchange:
        """Begin a request. `on_done` is called with it and the time once it has its answer or has failed."""
        if now >= self._learner.due_at:
            self._learner.begin(now)
            self._request(neighbours(self.state.rng), now, self._told_of_nodes)
        return self._request(self.state.rights.in_scope(call), now, on_done)

    def watch(
        self,
        call: Call,
        lease: int,
        now: float,
        on_event: Callable[[], None],
        kind: type[WatchExchange] = WatchExchange,
    ) -> WatchExchange:
        """Begin a watch. It lasts until it is forgotten or fails; `lease` is in seconds.

        `on_event` is called at each event, and at an error.
        """
        call = self.state.rights.in_scope(call)
        watch = kind(self.state, call, self._new_number(), lease, now, on_event)
        self._begin(watch, now)
        return watch

    def forget(self, pending: Pending) -> None:
        """Ignore replies to it from now on. No-op if it has ended."""
        if not pending.done:
            self._pending.pop(pending.number, None)

    def _request(self, call: Call, now: float, on_done: Callable[[Exchange, float], None] | None) -> Exchange:
        # The seal first: it makes the value longer, and the room beside a proof is checked for what is sent.
        call = self.state.seal.fitted(call)
        self.state.rights.check_room(call)
        kind = _KINDS.get(call.op, Exchange)
        exchange = kind(self.state, Request(call, self._new_number(), now, on_done))
        self._begin(exchange, now)
        return exchange

    def _begin(self, pending: Pending, now: float) -> None:
        # Before `start`: a closed port may be reported while the first datagram is sent.
        self._pending[pending.number] = pending
        pending.start(now)
        heapq.heappush(self._deadlines, (pending.deadline, pending.number))

    def _told_of_nodes(self, exchange: Exchange, now: float) -> None:
        if exchange.answer is not None:
            self._learner.learn(exchange.answer)

    def _new_number(self) -> int:
        # Random, so that nobody who does not see the traffic can forge a reply.
        return self.state.rng.getrandbits(64 - TRY_BITS)

    # --- Requests that are sent by others (_transfer)

    def prepared(self, call: Call) -> bytes:
        """The datagram of a request of one try."""
        if self.state.seal.key is None and self.state.rights.token is None:
            return self._prepared_plain(call)
        return self._prepared_in_full(call)

    def _prepared_in_full(self, call: Call) -> bytes:
        state = self.state
        call = state.seal.fitted(state.rights.in_scope(call))
        state.rights.check_room(call)
        number = self._new_number()
        message = state.rights.pack(call, number)
        if call.op is Op.PUT or call.op is Op.DELETE:
            seq = state.clock.next(state.versions.known(call.subject) + 1)
            message[_VERSION] = seq.to_bytes(8, "big")
            state.seal.close(message, call, seq)
        else:
            seq = state.clock.now()
        state.rights.prove(message, call, seq)
        return address(message, 0, Sent(0, 0, state.cookie, 0.0), 0).data

    def _prepared_plain(self, call: Call) -> bytes:
        """The same bytes, without the steps that a proof or a seal needs: thousands are made a second."""
        state = self.state
        message = pack_request(
            call.op,
            state.rights.key_of(call.key),
            self._drawn_number() << TRY_BITS,
            call.body,
            max_reply=call.max_reply,
            cookie=state.cookie,
        )
        if call.op is Op.PUT or call.op is Op.DELETE:
            version = state.clock.next(state.versions.known(call.subject) + 1)
            message[_VERSION] = version.to_bytes(8, "big")
        return bytes(message)

    def _drawn_number(self) -> int:
        """As `_new_number`, many at a time: each draw is a system call."""
        if not self._numbers:
            drawn = self.state.rng.randbytes(_DRAWN.size)
            self._numbers = [each >> TRY_BITS for each in _DRAWN.unpack(drawn)]
        return self._numbers.pop()

    def opened(self, call: Call, answer: Answer) -> Answer | None:
        """The answer to such a request as the caller sees it; None if its value is not the client's."""
        seal = self.state.seal
        if seal.key is None or call.op is not Op.GET:
            return answer
        plain, why = seal.open(self.state.rights.in_scope(call), answer)
        return None if why else plain

    def heard(self, node: int, op: Op, cookie: int, rtt: float, now: float) -> None:
        """That node has answered such a request, after `rtt` seconds. So the ordinary ones that follow know how long to wait."""
        self.state.nodes.answered(node, op, rtt, now)
        self.state.cookie = cookie or self.state.cookie

    # --- Deadlines

    def next_wake(self) -> float | None:
        """The earliest time at which a deadline may pass."""
        return self._deadlines[0][0] if self._deadlines else None

    def is_due(self, now: float) -> bool:
        """Whether `wake` would do anything. Before it, hand in all datagrams in the sockets."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, number = self._deadlines[0]
            pending = self._pending.get(number)
            if pending is not None and pending.deadline == deadline:
                return True
            # Its request has another deadline by now, or has ended.
            heapq.heappop(self._deadlines)
        return False

    def wake(self, now: float) -> None:
        """Let every deadline up to `now` pass."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, number = heapq.heappop(self._deadlines)
            pending = self._pending.get(number)
            # Deadlines are not removed from the heap when they change: a search for them would cost more than a
            # look here.
            if pending is None or pending.deadline != deadline:
                continue
            if not pending.done:
                pending.timed_out(now)
            self._reschedule(pending, None, now)

    def _reschedule(self, pending: Pending, before: float | None, now: float) -> None:
        """Note its next deadline if it differs from `before`, or drop it if it is done."""
        if not pending.done:
            if pending.deadline != before:
                heapq.heappush(self._deadlines, (pending.deadline, pending.number))
        else:
            self._pending.pop(pending.number, None)
            pending.ended(now)

    # --- Events of the network

    def refused(self, node: int, now: float) -> None:
        """The node's port is closed: count it as dead, and move its requests to other nodes."""
        # First, so that requests which move now do not choose this node again.
        self.state.nodes.died(node, now)
        for number in self.state.outgoing.take_asked(node):
            pending = self._pending.get(number)
            if pending is not None:
                before = pending.deadline
                pending.refused_by(node, now)
                self._reschedule(pending, before, now)

    def receive(self, node: int, data: bytes, now: float, *, direct: bool = False) -> None:
        """Untrusted bytes from a node; `direct`: to the unconnected socket, perhaps from ANY_NODE.

        A reply must have the request ID, op and key of a datagram, and come from the datagram's node, or from any
        node if the datagram was direct. Everything else is counted in `ignored`.
        """
        try:
            check_form(data)
        except BadPacket:
            self.ignored += 1
            return
        (_, _, op, flags, _, request_id, key, _, code, _, _, _, _, _, _, _, _, _, _, cookie, _, _) = (
            HEADER.unpack_from(data)
        )
        pending = self._pending.get(request_id >> TRY_BITS)
        status = STATUS_OF.get(code)
        if pending is not None and flags == _REPLY_FLAGS and status is not None:
            index = request_id % MAX_SENT ^ (pending.mask if direct else 0)
            sent = pending.asked(index, node, direct=direct)
            # Request IDs are random, so a match of all three is the only protection against forged replies:
            # clients check no tags.
            if sent is not None and op == pending.call.op and key == pending.call.key:
                # An answer from the asked node itself would pass a NAT too, so it does not show that direct
                # answers come through.
                if direct and node != sent.node:
                    self.state.direct.answered()
                elif direct:
                    self.state.direct.was_slow(request_id >> TRY_BITS)
                if direct and sent.attempt == 0 and status in _TELLS_OWNER:
                    self.state.owners.learn(key, node)
                before = pending.deadline
                reply = Answer(status, data[HEADER.size :], now - sent.at)
                pending.received(reply, cookie, index, sent, now)
                self._reschedule(pending, before, now)
                if not self._was_answered:
                    self._was_answered = True
                    self._learner.answered(now)
                return
        elif direct and flags == _REPLY_FLAGS:
            self.state.direct.came_late(request_id >> TRY_BITS, node)
        self.ignored += 1
