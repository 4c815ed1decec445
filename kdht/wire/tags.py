"""Tags of members and cookies of clients; docs/protocol.md says what each covers."""

import struct
from collections.abc import Sequence

from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, siphash
from kdht.wire.buffer import Buffer
from kdht.wire.keys import ClusterSecret
from kdht.wire.messages import OFFSET, check_form

_FLAGS, _EPOCH = OFFSET["flags"], OFFSET["epoch"]
_FORWARDED = int(Flag.FORWARDED)
_TIME = struct.Struct(">I")
_TAG = struct.Struct(">Q")


def header_tag(message: Buffer, key: ClusterSecret) -> int:
    """The tag of a packed message's header. `hops` counts as 0, because it changes at every node."""
    return shared.header_tag(key.tag, message)


def body_tag(message: Buffer, key: ClusterSecret) -> int:
    """The tag of a packed message's body. 0 for padding (GET, QUORUM_GET and TRACE without PROVEN)."""
    return shared.body_tag(key.tag, message)


def seal(message: bytearray, key: ClusterSecret, now: int) -> None:
    """Set the flag FORWARDED, time, epoch and both tags of a packed message: then members accept it.

    `now`: Unix seconds. `key`: the secret of the epoch to seal with.
    """
    # All fields before the tags: each of them is covered.
    message[_FLAGS] |= _FORWARDED
    message[_EPOCH] = key.epoch
    _TIME.pack_into(message, OFFSET["time"], now & 0xFFFFFFFF)
    _TAG.pack_into(message, OFFSET["body_tag"], body_tag(message, key))
    _TAG.pack_into(message, OFFSET["header_tag"], header_tag(message, key))


def verify(data: Buffer, keys: Sequence[ClusterSecret], now: int, window: int = shared.REPLAY_WINDOW) -> None:
    """Check a member's message as the core does: form, epoch, tags, time, hops. Raises BadPacket.

    `now`: Unix seconds. `window`: how many seconds the time of the message may be before or after it.
    """
    check_form(data)
    if not data[OFFSET["flags"]] & Flag.FORWARDED:
        raise BadPacket("BAD_FLAGS", "not sealed")
    key = next((key for key in keys if key.epoch == data[_EPOCH]), None)
    if key is None:
        raise BadPacket("BAD_EPOCH", str(data[_EPOCH]))
    if _TAG.unpack_from(data, OFFSET["header_tag"])[0] != header_tag(data, key):
        raise BadPacket("BAD_TAG")
    time = _TIME.unpack_from(data, OFFSET["time"])[0]
    # Modulo 2^32, as in the core: the seconds wrap in 2106.
    if min((now - time) % 2**32, (time - now) % 2**32) > window:
        raise BadPacket("STALE", f"{now - time} s old")
    if data[OFFSET["hops"]] == 0:
        raise BadPacket("HOP_LIMIT")
    if _TAG.unpack_from(data, OFFSET["body_tag"])[0] != body_tag(data, key):
        raise BadPacket("BAD_BODY_TAG")


def make_cookie(cookie_key: bytes, client_ip: bytes, now: int) -> int:
    """Shows for one time slot that a client receives what is sent to `client_ip` (16 bytes). Never 0."""
    return _cookie_of_slot(cookie_key, client_ip, now >> shared.COOKIE_SLOT_BITS)


def valid_cookie(cookie: int, cookie_key: bytes, client_ip: bytes, now: int) -> bool:
    """Whether a cookie is of this time slot, the one before or the one after. 0 is not a cookie."""
    slot = now >> shared.COOKIE_SLOT_BITS
    # The next slot too: clocks of nodes differ, and any of them may have made the cookie.
    slots = range(max(slot - 1, 0), slot + 2)
    return cookie != 0 and any(cookie == _cookie_of_slot(cookie_key, client_ip, s) for s in slots)


def _cookie_of_slot(cookie_key: bytes, client_ip: bytes, slot: int) -> int:
    # 0 in the field means that there is no cookie.
    return siphash(cookie_key, client_ip + slot.to_bytes(8, "big")) or 1
