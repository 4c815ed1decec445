"""Messages without an answer: SUSPECT and MEET about other nodes, and LEAVE about this one.

Contract: they leave in order, at a bounded rate. A bounded number waits; any more are counted and lost.
"""

from collections.abc import Iterable

from kdht.node.context import NodeContext
from kdht.node.control_outbox import ControlOutbox
from kdht.node.messages import DRAINED
from kdht.node.rate_queue import RateQueue
from kdht.times import SteadyTime
from kdht.wire import Contact, pack_contacts
from kdht.wire._shared import Op

# LEAVE to all contacts of a large table fits. What is beyond is told by others, or found by probes.
MAX_WAITING = 8192


class Notice:
    """One message to one contact."""

    __slots__ = ("body", "ended", "key", "op", "target", "waiting")

    def __init__(self, op: Op, key: bytes, body: bytes, target: Contact) -> None:
        self.op = op
        self.key = key
        self.body = body
        self.target = target
        self.waiting = False
        self.ended = False


class Notices:
    """The notices that one node sends."""

    def __init__(self, context: NodeContext, outbox: ControlOutbox) -> None:
        self._context = context
        self._outbox = outbox
        self._queue: RateQueue[Notice] = RateQueue(context.options.notice_rate, context.timers, self._send)

    def __len__(self) -> int:
        """The number of waiting notices."""
        return len(self._queue)

    def suspect(self, contact: Contact, targets: Iterable[Contact], now: SteadyTime) -> None:
        """This contact does not answer."""
        self._tell(Op.SUSPECT, contact.id, pack_contacts([contact]), targets, now)

    def meet(self, id: bytes, contact: Contact | None, target: Contact, now: SteadyTime) -> None:
        """To the node with that ID: get to know `contact`. To another, without one: have it get to know this node."""
        self._tell(Op.MEET, id, pack_contacts([contact]) if contact else b"", [target], now)

    def leave(self, targets: Iterable[Contact], now: SteadyTime, *, drained: bool) -> None:
        """This node leaves. `drained`: it has given all its records away."""
        self._tell(Op.LEAVE, self._context.id, DRAINED if drained else b"", targets, now)

    def _tell(self, op: Op, key: bytes, body: bytes, targets: Iterable[Contact], now: SteadyTime) -> None:
        for target in targets:
            if len(self._queue) < MAX_WAITING:
                self._queue.send(Notice(op, key, body, target), now)
            else:
                self._context.counters["notices_full"] += 1

    def _send(self, notice: Notice, now: SteadyTime) -> None:
        self._context.counters["notices_sent"] += 1
        self._outbox.notice(notice.op, notice.key, notice.body, notice.target.address, now)
