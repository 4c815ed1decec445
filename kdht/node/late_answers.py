"""Answers to requests that end in a later turn than they began: other replicas were asked first.

Contract: whoever calls has a turn.
"""

from collections.abc import Callable

from kdht.datapath.base import Datagram
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.writes import Written
from kdht.node.replies import Replies, ReplyBatch
from kdht.storage.room import Room
from kdht.times import UnixTime
from kdht.wire import OFFSET, RECORD
from kdht.wire._shared import Status

_OP = OFFSET["op"]
_TELLS_VERSION = frozenset({Status.CONFLICT, Status.BAD_VERSION})

Late = Callable[[int, UnixTime], None]
"""As Observer.late."""


class LateAnswers:
    """One node's. `room` counts what writers store. `on_late(op, arrived)` hears of each answer."""

    def __init__(self, replies: Replies, room: Room, on_late: Late) -> None:
        self._replies = replies
        self._room = room
        self._on_late = on_late

    def stored(
        self,
        request: Datagram,
        arrived: UnixTime,
        ttl: int,
        who: bytes,
        size: int,
        turn: Turn,
        written: Written,
    ) -> None:
        """The end of a write of `size` bytes by `who`."""
        good = written.status is Status.OK
        # An overwritten value takes no more room than before, as far as the quota counts.
        if good and not written.existed:
            self._room.wrote(who, size, turn.now)
        self._wrote(request, arrived, turn, written, RECORD.pack(written.version, ttl, 0) if good else b"")

    def removed(self, request: Datagram, arrived: UnixTime, who: bytes, turn: Turn, written: Written) -> None:
        """The end of a removal by `who`. The replicas remember it, so a try that comes again gets the same answer."""
        if written.status is Status.OK and written.existed:
            self._room.deleted(who, turn.now)
        elif written.status is Status.OK:
            written = written._replace(status=Status.NOT_FOUND)
        self._wrote(request, arrived, turn, written, b"")

    def _wrote(self, request: Datagram, arrived: UnixTime, turn: Turn, written: Written, body: bytes) -> None:
        # BUSY has a version only if a promise of that version is in the way.
        if written.status in _TELLS_VERSION or (written.status is Status.BUSY and written.version):
            body = RECORD.pack(written.version, 0, 0)
        answers = self._replies.batch(turn.now)
        answers.add(request, written.status, body)
        self.send(turn, request, arrived, answers)

    def send(self, turn: Turn, request: Datagram, arrived: UnixTime, answers: ReplyBatch) -> None:
        """With the turn's other datagrams."""
        self._on_late(request.data[_OP], arrived)
        self._replies.send_with(turn, answers)
