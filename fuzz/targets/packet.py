"""The nfqueue datapath's verdict, `core_decide_packet`, on any whole packet.

Invariant: as of `message`, for the message in the packet; no byte touched beyond the packet,
and of the packet only addresses, ports, TTL, checksums and what the message's rewriting needs.
A right checksum stays right, and the verdict is `core_decide_message`'s, but for the IP version.

    | node and fixes | packet ...
"""

import struct
from collections.abc import Iterator

from fuzz.targets.message import SOURCES, cores, messages
from fuzz.targets.scene import FIXES, HOME4, HOME6, NODES, NOW, Fix, guard, mend
from fuzz.targets.verdicts import MOVED, check
from kdht._routing import Outcome
from kdht.wire import Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Reason

UDP = 17
NEW_TTL = 64
_U16 = struct.Struct(">H")
_MAPPED = HOME4.ip[:12]
_OF_IP = {
    Reason.NOT_OURS, Reason.BAD_IP, Reason.FRAGMENT, Reason.IP_OPTIONS, Reason.EXT_HEADER,
    Reason.NO_CHECKSUM, Reason.BAD_ADDRESS, Reason.BAD_CHECKSUM,
}  # fmt: skip


def one(data: bytes) -> None:
    if not data:
        return
    number = data[0] % NODES
    packet = mended(data)
    before = bytes(packet)
    outcome = cores()[number].decide_packet(guard(packet), NOW)
    after = bytes(packet)
    if outcome.verdict not in MOVED:
        assert after == before, f"{outcome.reason!r} changed the packet"
    if outcome.reason in _OF_IP:
        return
    start, end = message_in(before)
    source, target = addresses(before)
    check(number, before[start:end], after[start:end], outcome, source, target)
    check_against_decide(number, before[start:end], after[start:end], outcome, source, target)
    if outcome.verdict in MOVED:
        check_frame(before, after, outcome)


def mended(data: bytes) -> bytearray:
    """The packet of an input, with what its first byte asks for made right."""
    fixes, packet = data[0] & FIXES, bytearray(data[1:])
    place = udp_in(packet)
    if place is None:
        return packet
    if fixes & Fix.FORM:
        _mend_frame(packet, place)
    message = packet[place + 8 :]
    mend(message, fixes, addresses(packet)[0].ip)
    packet[place + 8 :] = message
    if fixes & (Fix.FORM | Fix.CHECKSUMS):
        _complete_ip(packet)
    if fixes & Fix.CHECKSUMS:
        packet[place + 6 : place + 8] = b"\0\0"
        _U16.pack_into(packet, place + 6, 0xFFFF - udp_sum(packet, place, len(packet)) % 0xFFFF)
    return packet


def udp_in(packet: bytes | bytearray) -> int | None:
    """Where UDP is if the packet has it, and room for a header; extension headers are not followed."""
    version = packet[0] >> 4 if packet else 0
    place = 4 * (packet[0] & 15) if version == 4 else 40
    long_enough = len(packet) >= max(place, 20) + 8
    return place if long_enough and (version == 4 or (version == 6 and packet[6] == UDP)) else None


def _mend_frame(packet: bytearray, place: int) -> None:
    if packet[0] >> 4 == 4:
        _U16.pack_into(packet, 2, len(packet) & 0xFFFF)
        packet[9] = UDP
        packet[16:20] = HOME4.ip[12:]
    else:
        _U16.pack_into(packet, 4, (len(packet) - 40) & 0xFFFF)
        packet[24:40] = HOME6.ip
    _U16.pack_into(packet, place + 2, shared.PORT)
    _U16.pack_into(packet, place + 4, (len(packet) - place) & 0xFFFF)


def _complete_ip(packet: bytearray) -> None:
    """Set the right checksum of an IPv4 header without options."""
    if packet[0] >> 4 == 4:
        packet[10:12] = b"\0\0"
        _U16.pack_into(packet, 10, 0xFFFF - int.from_bytes(packet[:20], "big") % 0xFFFF)


# --- The rules of packets ---------------------------------------------------------------------


def message_in(packet: bytes) -> tuple[int, int]:
    """Where the message lies in a packet that the core looked into: one without options."""
    if packet[0] >> 4 == 4:
        return 28, _U16.unpack_from(packet, 2)[0]
    return 48, 40 + _U16.unpack_from(packet, 4)[0]


def addresses(packet: bytes | bytearray) -> tuple[Address, Address]:
    place = udp_in(packet)
    assert place is not None
    source_port, target_port = struct.unpack_from(">HH", packet, place)
    if packet[0] >> 4 == 4:
        ips = (_MAPPED + bytes(packet[at : at + 4]) for at in (12, 16))
    else:
        ips = (bytes(packet[at : at + 16]) for at in (8, 24))
    source, target = ips
    return Address(source, source_port), Address(target, target_port)


def udp_sum(packet: bytes | bytearray, place: int, end: int) -> int:
    """The Internet checksum's sum over pseudo-header and datagram: 0 modulo 65535 if it is right."""
    ips = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    datagram = bytes(packet[place:end]) + bytes((end - place) % 2)
    return int.from_bytes(ips, "big") + UDP + end - place + int.from_bytes(datagram, "big")


def check_against_decide(
    number: int, before: bytes, after: bytes, outcome: Outcome, source: Address, target: Address
) -> None:
    message = bytearray(before)
    decided = cores()[number].decide_message(guard(message), source, target, NOW)
    if outcome.reason is Reason.FAMILY:
        assert decided.verdict in MOVED
        assert (
            decided.target.is_ipv4 != target.is_ipv4
            or decided.source.is_ipv4 != target.is_ipv4
            or not any(decided.source.ip)
        )
        return
    assert decided == outcome
    assert bytes(message) == after


def check_frame(before: bytes, after: bytes, outcome: Outcome) -> None:
    start, end = message_in(before)
    place = start - 8
    assert addresses(after) == (outcome.source, outcome.target)
    if before[0] >> 4 == 4:
        kept = [(0, 8), (9, 10), (place + 4, place + 6), (end, None)]
        assert int.from_bytes(after[:20], "big") % 0xFFFF == 0, "the IP header's checksum"
        assert after[8] == NEW_TTL
    else:
        kept = [(0, 7), (place + 4, place + 6), (end, None)]
        assert after[7] == NEW_TTL
    for first, last in kept:
        assert after[first:last] == before[first:last]
    if before[place + 6 : place + 8] == b"\0\0":
        assert after[place + 6 : place + 8] == b"\0\0", "a checksum where there was none"
    elif udp_sum(before, place, end) % 0xFFFF == 0:
        assert udp_sum(after, place, end) % 0xFFFF == 0, "a right checksum became wrong"


# --- Where fuzzing starts ----------------------------------------------------------------------


def frame(message: bytes, source: Address, target: Address) -> bytes:
    """A packet of the IP version of `source`; its checksum is left to the mending."""
    udp = struct.pack(">HHHH", source.port, target.port, 8 + len(message), 0) + message
    if source.is_ipv4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 9, UDP, 0)
        return head + source.ip[12:] + target.ip[12:] + udp
    return struct.pack(">IHBB", 6 << 28, len(udp), UDP, 9) + source.ip + target.ip + udp


def seeds() -> Iterator[tuple[str, bytes]]:
    first = bytes([1 | Fix.FORM | Fix.TIME | Fix.TAGS | Fix.CHECKSUMS])
    for name, message in messages():
        yield f"{name}-v4", first + frame(message, SOURCES[0], HOME4)
        yield f"{name}-v6", first + frame(message, SOURCES[1], HOME6)
    message = dict(messages())["get-request"]
    plain = frame(message, SOURCES[1], HOME6)
    for kind in (0, 43, 44, 60):
        length = struct.pack(">H", len(plain) - 40 + 8)
        yield (
            f"extension-{kind}",
            b"\x01" + plain[:4] + length + bytes([kind]) + plain[7:40] + bytes([UDP] + [0] * 7) + plain[40:],
        )
    plain = frame(message, SOURCES[0], HOME4)
    yield (
        "options",
        b"\x01\x46" + plain[1:2] + _U16.pack(len(plain) + 4) + plain[4:20] + bytes(4) + plain[20:],
    )
    yield "fragment", b"\x01" + plain[:6] + b"\x20\x00" + plain[8:]
