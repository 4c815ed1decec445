"""The replies to clients' requests: made, counted and sent.

Contract: thread-safe. A batch of replies is made at one time, by one thread, and leaves in one `send`.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.node.replicas._turns import Turn
from kdht.node.reply import Replier
from kdht.storage import StoredRecord
from kdht.times import UnixTime
from kdht.wire import OFFSET, RECORD
from kdht.wire._shared import RECORD_LEN, Op, RecordFlag, Status

_OP = OFFSET["op"]
_STATUS = OFFSET["status"]

Send = Callable[[list[Outgoing]], object]


class ReplyBatch:
    """Replies that leave together."""

    def __init__(self, replier: Replier, now: UnixTime) -> None:
        self.now = now
        self.outgoing: list[Outgoing] = []
        self.given: list[tuple[int, int]] = []
        """Op and status of each."""
        # Looked up once for a batch.
        self._reply = replier.reply
        self._seconds = int(now)

    def add(self, request: Datagram, status: Status, body: bytes = b"") -> None:
        # The core may put a refusal in its place, so the status is read from what it made.
        reply = self._reply(request, status, body, self._seconds)
        self.outgoing.append(reply)
        self.given.append((request.data[_OP], reply.data[_STATUS]))

    def add_record(self, request: Datagram, record: StoredRecord) -> None:
        """The record, or NOT_FOUND where it is a tombstone."""
        if record.deleted:
            self.add_gone(request, record.version)
        else:
            self.add(request, Status.OK, _record_body(record, self.now))

    def add_gone(self, request: Datagram, version: int) -> None:
        """NOT_FOUND, with the version of the tombstone, if there is one and room for it."""
        # Without room the bare status says enough. A refusal for want of a cookie would cost a round trip.
        tells = version and request.max_reply >= RECORD_LEN
        self.add(request, Status.NOT_FOUND, RECORD.pack(version, 0, RecordFlag.TOMBSTONE) if tells else b"")

    def add_hearsay(self, request: Datagram, record: StoredRecord | None) -> None:
        """NOT_RESPONSIBLE, with the record that this node has all the same, if there is room for it."""
        body = b"" if record is None or record.deleted else _record_body(record, self.now)
        self.add(request, Status.NOT_RESPONSIBLE, body if len(body) <= request.max_reply else b"")


class Replies:
    """All replies of one node."""

    def __init__(self, core: Core, send: Send) -> None:
        self.replier = Replier(core)
        self._send = send
        self.counts: Counter[tuple[int, int]] = Counter()
        """By op and status."""
        self._lock = threading.Lock()

    def batch(self, now: UnixTime) -> ReplyBatch:
        """An empty batch; `now`: Unix seconds."""
        return ReplyBatch(self.replier, now)

    def send(self, batch: ReplyBatch) -> None:
        """Send it now."""
        if batch.outgoing:
            self._count(batch)
            self._send(batch.outgoing)

    def send_with(self, turn: Turn, batch: ReplyBatch) -> None:
        """Send it with the turn's other datagrams."""
        # With the STOREs of the same turn: one system call for all.
        turn.outgoing += batch.outgoing
        self._count(batch)

    def counters(self) -> dict[str, int]:
        """Replies since the start, by op and status, such as `{"GET OK": 7}`."""
        with self._lock:
            return {
                f"{Op(op).name} {Status(status).name}": n for (op, status), n in sorted(self.counts.items())
            }

    def _count(self, batch: ReplyBatch) -> None:
        with self._lock:
            self.counts.update(batch.given)


def _record_body(record: StoredRecord, now: UnixTime) -> bytes:
    """A record as clients see it: the remaining seconds, at least 1, in place of the expiry."""
    version, expiry, flags, value = record
    ttl = min(max(expiry - math.ceil(now), 1), 2**32 - 1) if expiry else 0
    return RECORD.pack(version, ttl, flags) + value
