"""Records on their way to other replicas, each as a STORE, a window of them at a time.

Contract: a push ends in all its `done`: True once the other node has the record, or a newer one, on stable storage; False if
it could not be told or refused. The record is read when its turn comes, so the newest one is sent. The queue and the
records under way (`Window`) are bounded. The rate is that of requests.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from kdht.errors import BadPacket, MissingLibrary, StorageError
from kdht.node.messages import Reply
from kdht.node.repair.context import RepairContext
from kdht.node.repair.window import Window
from kdht.node.replicas.writes import pack_stored
from kdht.node.rpc import Rpc
from kdht.storage import StoredRecord
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import Op, Status
from kdht.wire.certified import check_certified, is_certified

# Keys only, so they take little memory. The next comparison finds what was refused.
MAX_QUEUED = 4096
LEAST_WAITING = 512
BUSY_DELAY = 0.5
"""Seconds until a BUSY node is asked again."""
# Five seconds. A node that is full or slow for longer is left to the next round.
BUSY_TRIES = 10

Pushed = Callable[[bool, SteadyTime], None]


class _Push:
    __slots__ = ("busy", "contact", "done", "key")

    def __init__(self, contact: Contact, key: bytes) -> None:
        self.contact = contact
        self.key = key
        self.done: list[Pushed] = []
        self.busy = 0


class Pusher:
    """All pushes of one node."""

    def __init__(self, context: RepairContext) -> None:
        self._context = context
        self._queue: deque[_Push] = deque()
        self._known: dict[tuple[bytes, bytes], _Push] = {}
        self._under_way = 0
        self.window = Window()

    @property
    def is_full(self) -> bool:
        """Whether enough records wait for the next moments."""
        return len(self._known) > max(LEAST_WAITING, 2 * self.window.size)

    def __len__(self) -> int:
        return len(self._known)

    def push(self, contact: Contact, key: bytes, done: Pushed, now: SteadyTime) -> None:
        """Send the record of a key to a node."""
        place = contact.id, key
        # The same record for the same node is sent once, whoever asks for it.
        push = self._known.get(place)
        if push is None and len(self._known) >= MAX_QUEUED:
            self._context.counters["pushes_refused"] += 1
            done(False, now)
            return
        if push is None:
            push = self._known[place] = _Push(contact, key)
            self._queue.append(push)
        push.done.append(done)
        self._send(now)

    def _send(self, now: SteadyTime) -> None:
        while self._queue and self._under_way < self.window.size:
            push = self._queue.popleft()
            self._under_way += 1
            if not self._sent(push, now):
                self._close(push, False, now)

    def _sent(self, push: _Push, now: SteadyTime) -> bool:
        context = self._context
        try:
            # Only now: while it waited in the queue, a client may have written a newer one.
            record = context.store.get(push.key, context.unix())
        except StorageError:
            context.counters["storage_failed"] += 1
            return False
        if record is None:  # it expired or was given away
            return False
        if is_certified(record.version, record.flags) and not self._is_proven(push.key, record):
            return False
        body = pack_stored(record)
        if not context.ask(Op.STORE, push.key, push.contact, body, partial(self._answered, push), now):
            return False
        context.counters["bytes_pushed"] += len(body)
        return True

    def _is_proven(self, key: bytes, record: StoredRecord) -> bool:
        """Whether the own copy of a self-certified record is what its owner made. If not, it is dropped."""
        try:
            check_certified(key, record.version, record.flags, record.value)
        except BadPacket:
            # Somebody altered this disk. While the copy stands, it keeps the right one out.
            self._context.counters["records_uncertified"] += 1
            self._context.drop([(key, record.version)])
            return False
        except MissingLibrary:
            pass  # the other node checks it
        return True

    def _answered(self, push: _Push, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        # From the first transmission: an answer to a repetition shows that one was lost.
        rtt = now - rpc.sent[0] if rpc.sent else 0.0
        # Repair must give way to clients, so every sign of overload shrinks the window.
        if reply is None or len(rpc.sent) > 1 or reply.status is Status.BUSY:
            self.window.lost(rtt, now)
        else:
            self.window.answered(rtt, now)
        if reply is not None and reply.status is Status.BUSY and push.busy < BUSY_TRIES:
            push.busy += 1
            # It keeps its place in the window, so a busy node slows this one down.
            self._context.node.timers.at(now + BUSY_DELAY, partial(self._again, push))
            return
        # CONFLICT: the other node has something newer, which is as good.
        good = reply is not None and reply.status in (Status.OK, Status.CONFLICT)
        self._context.counters["records_pushed" if good else "pushes_failed"] += 1
        self._end(push, good, now)

    def _again(self, push: _Push, now: SteadyTime) -> None:
        if not self._sent(push, now):
            self._end(push, False, now)

    def _end(self, push: _Push, good: bool, now: SteadyTime) -> None:
        self._close(push, good, now)
        self._send(now)

    def _close(self, push: _Push, good: bool, now: SteadyTime) -> None:
        self._under_way -= 1
        del self._known[push.contact.id, push.key]
        for done in push.done:
            done(good, now)
