"""Moves messages to another time: right tags and cookies are made anew.

Live datapaths read the clock, so old captures would be stale for them. Wrong messages stay wrong
in the same way.
"""

from kdht.replay.packets import UdpDatagram, packet, take_apart
from kdht.replay.tables import ReplayTable
from kdht.wire import OFFSET, header_tag, make_cookie
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag

_SIZE = {name: size for name, _, size in shared.LAYOUT}


def get(message: bytes | bytearray, name: str) -> int:
    """One header field."""
    at = OFFSET[name]
    return int.from_bytes(message[at : at + _SIZE[name]], "big")


def put(message: bytearray, name: str, value: int | bytes) -> None:
    """Change one header field."""
    at, size = OFFSET[name], _SIZE[name]
    message[at : at + size] = value if isinstance(value, bytes) else value.to_bytes(size, "big")


def redated(table: ReplayTable, raw: bytes, before: int, now: int) -> bytes:
    """The packet `raw` of the second `before`, moved to the second `now`. Other packets are unchanged."""
    datagram = take_apart(raw)
    if datagram is None or len(datagram.message) < shared.HEADER_LEN or before == now:
        return raw
    message = bytearray(datagram.message)
    if get(message, "magic") != shared.MAGIC:
        return raw
    if get(message, "flags") & Flag.FORWARDED:
        _redate_member(table, message, now - before)
    else:
        _redate_client(table, message, datagram, before, now)
    return raw if message == datagram.message else rewrapped(raw, datagram, bytes(message))


def _redate_member(table: ReplayTable, message: bytearray, shift: int) -> None:
    key = next((key for key in table.keys if key.epoch == get(message, "epoch")), None)
    if key is None or get(message, "header_tag") != header_tag(message, key):
        return
    put(message, "time", (get(message, "time") + shift) % 2**32)
    put(message, "header_tag", header_tag(message, key))


def _redate_client(
    table: ReplayTable, message: bytearray, datagram: UdpDatagram, before: int, now: int
) -> None:
    slot = 1 << shared.COOKIE_SLOT_BITS
    key = table.keys[0].cookie
    for late in (0, slot, -slot):
        good = make_cookie(key, datagram.source.ip, max(before - late, 0))
        if get(message, "cookie") == good:
            put(message, "cookie", make_cookie(key, datagram.source.ip, now - late))
            return


def completed(raw: bytes) -> bytes:
    """The packet with its UDP checksum completed, as a device does it."""
    datagram = take_apart(raw)
    if datagram is None or datagram.checksum != "partial":
        return raw
    return rewrapped(raw, datagram._replace(checksum="right"), datagram.message)


def rewrapped(raw: bytes, datagram: UdpDatagram, message: bytes) -> bytes:
    """The packet with another message of the same length, and a checksum of the same kind."""
    made = packet(message, datagram.source, datagram.target, datagram.checksum)
    begin = datagram.begin
    end = begin + len(message)
    return raw[: begin - 2] + bytes(made[begin - 2 : end]) + raw[end:]
