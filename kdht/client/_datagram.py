"""A request's datagrams: their numbers, a note of each one sent, and the outbox."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from kdht.wire import FIELD, OFFSET
from kdht.wire._shared import TRY_BITS, Flag

MAX_SENT = 1 << TRY_BITS
"""Datagrams of one request. The low bits of the request ID number them; a reply repeats the number."""
# Half of the numbers are for tries, half for repetitions: a cluster that always wants another cookie must not
# use up the tries.
MAX_ATTEMPTS = MAX_SENT // 2
MAX_REPEATS = MAX_SENT - MAX_ATTEMPTS
"""Datagrams of one request beside its tries: repetitions with a new cookie, and probes of dead nodes."""

ANY_NODE = -1
"""In place of a node's index: an unknown sender."""

_LAST_ID_BYTE = OFFSET["request_id"] + 7
_ATTEMPT = OFFSET["attempt"]
_FLAGS = OFFSET["flags"]
_COOKIE = FIELD["cookie"]
_PROVEN, _DIRECT = int(Flag.PROVEN), int(Flag.DIRECT)


class Send(NamedTuple):
    """A datagram for the node with this index; `direct`: from the socket for answers of any node."""

    node: int
    data: bytes
    direct: bool = False
    port: int = 0
    """How often this node's source port was changed so far."""


class Sent(NamedTuple):
    """The note of a datagram, sent at the time `at` (seconds on the caller's clock)."""

    node: int
    attempt: int
    cookie: int
    at: float
    hedge: bool = False
    direct: bool = False


def address(message: bytearray, number: int, sent: Sent, port: int) -> Send:
    """Make a packed request the datagram of that number; writes to `message`. `port`: as in Send."""
    # In place: everything else of a request is the same in all its datagrams, and packing costs more than these
    # four fields.
    message[_LAST_ID_BYTE] = message[_LAST_ID_BYTE] & -MAX_SENT & 0xFF | number
    message[_ATTEMPT] = sent.attempt
    message[_FLAGS] = message[_FLAGS] & _PROVEN | (_DIRECT if sent.direct else 0)
    message[_COOKIE] = sent.cookie.to_bytes(8, "big")
    return Send(sent.node, bytes(message), sent.direct, port)


class RequestOutbox:
    """The datagrams to send. It also notes which requests ask each node, until the node's port is found closed.

    `pending` are the requests under way, by number. Ended ones are removed from the notes from time to time.
    """

    def __init__(self, pending: Mapping[int, object]) -> None:
        self.datagrams: list[Send] = []
        """The driver sends them, and empties this list."""
        self.asked: defaultdict[int, list[int]] = defaultdict(list)
        self._pending = pending

    def add(self, send: Send, number: int) -> None:
        """A datagram of the request of that number."""
        self.datagrams.append(send)
        asked = self.asked[send.node]
        asked.append(number)
        # Only then, so each datagram pays for a constant share of the clean-up.
        if len(asked) > 2 * len(self._pending) + MAX_SENT:
            asked[:] = {each for each in asked if each in self._pending}

    def take_asked(self, node: int) -> list[int]:
        """The requests with a datagram at this node, oldest first, each once. Clears the note.

        So each datagram counts once, and many requests at one closed port cost no more than they are.
        """
        return list(dict.fromkeys(self.asked.pop(node, ())))
