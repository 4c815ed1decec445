"""STORE, FETCH, PROMISE and LIST to other replicas: sent, repeated, matched with their answers, given up.

    asked ---> answer: ReplicaAnswer
      |  `---> no answer in the usual time: SLOW, once; then repeated ---> ReplicaAnswer, or FAILED after three tries
      `------> an ICMP error: CLOSED

Contract: a call reports to `told`: perhaps SLOW, and at the end a ReplicaAnswer, FAILED or CLOSED. After SLOW the
caller may ask another replica too. An answer counts if its request ID, source, op and key are those of a waiting call.
All nodes asked at once share a ReplicaQuestion: one request ID, sealed once. Addresses that did not answer are reported
to `on_silent`.

Time-outs follow the round trips measured to each address (RFC 6298), including the disk there. They are measured from the
first transmission on. A call answered after its repetition was more often slow than lost. If only undisturbed calls
counted (Karn), a time-out that is too short would stay so.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, NamedTuple, TypeAlias

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.node._timers import Alarm
from kdht.node.cluster import ClusterState
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas._trips import Trips
from kdht.node.replicas._turns import Turn
from kdht.storage.versions import is_possible_version, latest_version
from kdht.times import SteadyTime, UnixTime
from kdht.wire import FIELD, OFFSET, RECORD, STATUS_OF, Address, pack_request
from kdht.wire._shared import HEADER_LEN, RECORD_LEN, Flag, Op, Status
from kdht.wire.certified import CERTIFIED

_OP, _FLAGS, _STATUS = OFFSET["op"], OFFSET["flags"], OFFSET["status"]
_REQUEST_ID, _KEY = FIELD["request_id"], FIELD["key"]
_CLIENT_PORT, _CLIENT_IP = FIELD["client_port"], FIELD["client_ip"]
_REPLY = int(Flag.REPLY)

FIRST_CERTIFIED = CERTIFIED >> 56
"""The first byte of a STORE or PROMISE of a self-certified record is this or more."""
# As many as the writer's queue has writes.
MAX_CALLS = 8192
# After three the stand-in has answered, or the write's deadline is over.
TRIES = 3
FIRST_TIMEOUT = 0.2
# A disk syncs in some milliseconds, but a group before it may be at it. A FETCH only waits for a read.
LEAST_TIMEOUT = {Op.STORE: 0.05, Op.FETCH: 0.015, Op.PROMISE: 0.05, Op.LIST: 0.015}
"""Seconds. STORE and PROMISE wait for a disk."""
MOST_TIMEOUT = 1.0

SLOW: Final = "slow"
FAILED: Final = "failed"
CLOSED: Final = "closed"


class ReplicaAnswer(NamedTuple):
    """What a replica answered."""

    status: Status
    body: bytes


Told: TypeAlias = "Callable[[Turn, ReplicaCall, ReplicaAnswer | str], None]"


class ReplicaQuestion:
    """A question to several replicas: one datagram for all that are asked from the same own address."""

    __slots__ = ("body", "key", "op", "request_id", "wires")

    def __init__(self, op: Op, key: bytes, body: bytes, request_id: int) -> None:
        self.op = op
        self.key = key
        self.body = body
        self.request_id = request_id
        self.wires: dict[Address, bytes] = {}
        """The sealed datagram by source address."""


class ReplicaCall:
    """One STORE, FETCH, PROMISE or LIST under way."""

    __slots__ = ("address", "alarm", "begun", "question", "source", "told", "tries")

    def __init__(self, question: ReplicaQuestion, address: Address, source: Address, told: Told) -> None:
        self.question = question
        self.address = address
        self.source = source
        self.told = told
        self.tries = 0
        self.begun: SteadyTime
        self.alarm: Alarm


class AskedReplica(NamedTuple):
    """A replica that was asked once, elsewhere (`_common_writes`), and whether it has answered."""

    address: Address
    source: Address
    begun: SteadyTime
    due: SteadyTime
    place: int
    """The place of its alarm, as in Timers."""
    answered: bool


class Calls:
    """All calls of one node, which sends from `sources`: its own address for each IP version."""

    def __init__(
        self,
        core: Core,
        sources: dict[bool, Address],
        rng: Random,
        counters: Counter[str],
        on_silent: Callable[[Address], None],
        cluster: ClusterState,
    ) -> None:
        self._cluster = cluster
        self._core = core
        self._sources = sources
        # Not that of the system itself: an answer has tags, so nobody gains by guessing its ID.
        self.new_id = partial(Random(rng.getrandbits(128)).getrandbits, 64)
        """The request ID of a question."""
        self._counters = counters
        self._on_silent = on_silent
        self.trips = Trips(LEAST_TIMEOUT)
        self._pending: dict[tuple[int, Address], ReplicaCall] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def question(self, op: Op, key: bytes, body: bytes) -> ReplicaQuestion:
        """A question for `ask`."""
        return ReplicaQuestion(op, key, body, self.new_id())

    def ask(self, turn: Turn, question: ReplicaQuestion, address: Address, told: Told) -> bool:
        """Send a question to a node. If that is impossible, returns False and never calls `told`."""
        source = self._sources.get(address.is_ipv4)
        # By both: one question goes to several replicas under one request ID.
        place = question.request_id, address
        # Bounded, so that silent replicas cannot use up the memory.
        if source is None or len(self._pending) >= MAX_CALLS or place in self._pending:
            self._counters["calls_refused"] += 1
            return False
        # Sealed once for all replicas.
        if source not in question.wires:
            message = pack_request(
                question.op, question.key, question.request_id, question.body, hops=CONTROL_HOPS
            )
            seal_as_sender(self._core, message, source, turn.now)
            question.wires[source] = bytes(message)
        call = self._pending[place] = ReplicaCall(question, address, source, told)
        call.begun = turn.steady
        self._transmit(turn, call)
        return True

    def receive(self, turn: Turn, reply: Datagram) -> bool:
        """Take a reply. False if it belongs to no waiting call."""
        data = reply.data
        # The source is part of the key, so a reply from another address finds nothing.
        call = self._pending.get((int.from_bytes(data[_REQUEST_ID], "big"), reply.source))
        if call is None:
            return False
        status = STATUS_OF.get(data[_STATUS])
        question = call.question
        if status is None or question.op != data[_OP] or question.key != data[_KEY]:
            self._counters["calls_unmatched"] += 1
            return True
        rtt = turn.steady - call.begun
        # Answers after a repetition count too, else an overloaded cluster is always asked three times.
        self.trips.took(question.op, call.address, rtt)
        self._end(turn, call, self._believable(question, ReplicaAnswer(status, data[HEADER_LEN:]), turn.now))
        return True

    def _believable(self, question: ReplicaQuestion, answer: ReplicaAnswer, now: UnixTime) -> ReplicaAnswer:
        """The answer. If it names a version that cannot be, then that of a node whose disk failed."""
        if len(answer.body) < RECORD_LEN or question.op is Op.LIST:
            return answer
        version = RECORD.unpack_from(answer.body)[0]
        # Only a FETCH brings the certificate too. So no word of another node holds up an ordinary write with such a version.
        uncertified = (
            version >= CERTIFIED and question.op is not Op.FETCH and question.body[0] < FIRST_CERTIFIED
        )
        possible = is_possible_version(version, latest_version(now, self._cluster.policy.window))
        if possible and not uncertified:
            return answer
        self._counters["calls_unreadable"] += 1
        return ReplicaAnswer(Status.STORAGE_FAILED, b"")

    def waits(self, request_id: int, address: Address) -> bool:
        """Whether the answer of this address to this question is awaited."""
        return (request_id, address) in self._pending

    def unreachable(self, turn: Turn, address: Address, request_id: int) -> None:
        """An ICMP error quotes a message of that ID to this address. If it is a call's, all calls there end as CLOSED.

        The kernel sends few ICMP errors a second, so each call cannot have its own. A later answer does not undo this.
        """
        if not self.waits(request_id, address):
            return
        # The list first: `_end` removes from the dictionary.
        for call in [call for call in self._pending.values() if call.address == address]:
            self._counters["calls_unreachable"] += 1
            self._end(turn, call, CLOSED)

    def go_on(self, turn: Turn, question: ReplicaQuestion, asked: AskedReplica, told: Told) -> None:
        """Wait for the answer to a question that was sent already, once."""
        call = ReplicaCall(question, asked.address, asked.source, told)
        self._pending[question.request_id, asked.address] = call
        call.begun, call.tries = asked.begun, 1
        call.alarm = turn.at(asked.due, partial(self._overdue, call), asked.place)

    def _transmit(self, turn: Turn, call: ReplicaCall) -> None:
        question = call.question
        turn.outgoing.append(Outgoing(question.wires[call.source], call.address, call.source))
        timeout = self.trips.trip(question.op, call.address).timeout(
            FIRST_TIMEOUT, LEAST_TIMEOUT[question.op], MOST_TIMEOUT
        )
        # Doubled, so that a disk that is slow under load gets fewer repetitions and not more.
        call.alarm = turn.after(min(timeout * 2**call.tries, MOST_TIMEOUT), partial(self._overdue, call))
        call.tries += 1

    def _overdue(self, call: ReplicaCall, turn: Turn) -> None:
        self._counters["calls_overdue"] += 1
        # Once for each call: the table pings the node, and the caller may ask a stand-in.
        if call.tries == 1:
            self._on_silent(call.address)
            call.told(turn, call, SLOW)
        # `told` may have ended the whole job, and this call with it.
        if self._pending.get((call.question.request_id, call.address)) is not call:
            return
        if call.tries >= TRIES:
            self._end(turn, call, FAILED)
        else:
            self._transmit(turn, call)

    def _end(self, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
        # Before `told`, which may ask the same address again.
        del self._pending[call.question.request_id, call.address]
        call.alarm[2] = None
        call.told(turn, call, what)


def seal_as_sender(core: Core, message: bytearray, own: Address, now: UnixTime) -> None:
    """Make a control message this node's: its own address in the client fields, sealed."""
    message[_CLIENT_PORT] = own.port.to_bytes(2, "big")
    message[_CLIENT_IP] = own.ip
    core.seal(message, int(now))


def answer(core: Core, request: Datagram, status: Status, body: bytes, now: UnixTime) -> Outgoing:
    """The reply to another node's STORE, FETCH, PROMISE or LIST."""
    data = request.data
    request_id = int.from_bytes(data[_REQUEST_ID], "big")
    message = pack_request(data[_OP], data[_KEY], request_id, body, hops=CONTROL_HOPS)
    message[_FLAGS] |= _REPLY
    message[_STATUS] = status
    seal_as_sender(core, message, request.target, now)
    return Outgoing(bytes(message), request.source, request.target)
