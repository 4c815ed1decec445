"""Who of a cluster is on this link: a question by multicast, and its answer. Layer 0.

Both have the same length, so a forged source gets no more than was sent. Both bear a tag under a key of their own, derived
from the cluster's secret: an outsider gets no answer, and a tag from here is good for no other message.

`parse` gives a value or raises BadPacket, nothing else.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from hmac import compare_digest
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire.addresses import NO_IP, Address
from kdht.wire.buffer import Buffer
from kdht.wire.keys import ClusterSecret

#      0              4              8
#  0 | magic        | vs | kd | ep | 0 |     vs: version, kd: kind, ep: epoch
#  8 | time         | port    | 0      |     Unix seconds; the answering node's port and IP
# 16 | question                        |     of the asker's choice, 8 bytes; the answer has them too
# 24 | ip                              |
# 32 |                                 |
# 40 | tag                             |     SipHash-2-4 of all before it

_FIELDS = struct.Struct(">IBBBxIH2x8s16s")
_TAG = struct.Struct(">Q")
LENGTH = _FIELDS.size + _TAG.size
QUESTION_LEN = 8
EPOCH_AT = 6
"""Of the byte that names the key."""

GROUP4, GROUP6 = "239.255.53.48", "ff02::4b44:4854"
"""The multicast groups: of the local scope (RFC 2365), and of the link (RFC 4291)."""


class Kind(IntEnum):
    """What a message of discovery is."""

    QUESTION = 1
    ANSWER = 2


class Discovery(NamedTuple):
    """A question, or an answer with the node's address."""

    kind: Kind
    question: bytes
    """8 bytes of the asker's choice."""
    address: Address = Address(NO_IP, 0)
    """Of the answering node."""


def pack(message: Discovery, key: ClusterSecret, now: int) -> bytes:
    """The bytes of a message, LENGTH of them. `now`: Unix seconds. Raises struct.error for a port or time out of range."""
    address = message.address
    head = _FIELDS.pack(
        shared.MAGIC,
        shared.VERSION,
        message.kind,
        key.epoch,
        now & 0xFFFFFFFF,
        address.port,
        message.question,
        address.ip,
    )
    return head + _TAG.pack(shared.siphash(key.discovery, head))


def parse(
    data: Buffer, keys: Sequence[ClusterSecret], now: int, window: int = shared.REPLAY_WINDOW
) -> Discovery:
    """What the bytes say. `now`: Unix seconds; `window`: seconds that the message's time may be off. Raises BadPacket."""
    if len(data) != LENGTH:
        raise BadPacket("BAD_LENGTH", f"{len(data)} bytes, not {LENGTH}")
    head = bytes(data[: _FIELDS.size])
    magic, version, kind, epoch, time, port, question, ip = _FIELDS.unpack(head)
    if magic != shared.MAGIC:
        raise BadPacket("BAD_MAGIC")
    if version != shared.VERSION:
        raise BadPacket("BAD_VERSION", str(version))
    key = next((key for key in keys if key.epoch == epoch), None)
    if key is None:
        raise BadPacket("BAD_EPOCH", str(epoch))
    tag = _TAG.pack(shared.siphash(key.discovery, head))
    if not compare_digest(tag, bytes(data[_FIELDS.size :])):
        raise BadPacket("BAD_TAG")
    # Modulo 2^32, as in other messages.
    if min((now - time) % 2**32, (time - now) % 2**32) > window:
        raise BadPacket("STALE", f"{now - time} s old")
    if kind not in Kind._value2member_map_:
        raise BadPacket("BAD_OP", str(kind))
    return Discovery(Kind(kind), question, Address(ip, port))
