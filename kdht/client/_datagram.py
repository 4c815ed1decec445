"""A request's datagrams: how they are told apart, and what is remembered of each."""

from typing import NamedTuple

from kdht.wire import FIELD, NO_FLAGS, OFFSET
from kdht.wire._shared import TRY_BITS, Flag

MAX_SENT = 1 << TRY_BITS
"""The request ID's low bits number its tries, so that each reply shows which try it answers."""
MAX_ATTEMPTS = MAX_SENT // 2
MAX_REPEATS = MAX_SENT - MAX_ATTEMPTS
"""How often the tries of one request may be repeated with a new cookie, or beside it as a probe."""

ANY_NODE = -1
"""In place of a node's index: the sender is none of those that were asked."""

_LAST_ID_BYTE = OFFSET["request_id"] + 7
_ATTEMPT = OFFSET["attempt"]
_FLAGS = OFFSET["flags"]
_COOKIE = FIELD["cookie"]


class Send(NamedTuple):
    """A datagram to send to the node with this index; `direct`: from the socket that takes answers from any."""

    node: int
    data: bytes
    direct: bool = False


class Sent(NamedTuple):
    """What is remembered of a datagram sent."""

    node: int
    attempt: int
    cookie: int
    at: float
    hedge: bool = False
    direct: bool = False


def address(message: bytearray, number: int, sent: Sent) -> Send:
    """Make a packed request the datagram of that number; `message` is written to."""
    message[_LAST_ID_BYTE] = message[_LAST_ID_BYTE] & -MAX_SENT & 0xFF | number
    message[_ATTEMPT] = sent.attempt
    message[_FLAGS] = Flag.DIRECT if sent.direct else NO_FLAGS
    message[_COOKIE] = sent.cookie.to_bytes(8, "big")
    return Send(sent.node, bytes(message), sent.direct)
