"""IP packets around messages: made, taken apart, and their checksums set right again."""

import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

from kdht.wire import Address

UDP = 17
TTL = 64
Checksum = Literal["right", "zero", "partial", "wrong"]
_V4 = struct.Struct(">BBHHHBBH4s4s")
_V6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
_MAPPED = bytes(10) + b"\xff\xff"


class UdpDatagram(NamedTuple):
    """A UDP datagram in an IP packet without options or extension headers."""

    source: Address
    target: Address
    message: bytes
    begin: int
    """Where the message begins in the packet."""
    checksum: Checksum


def word_sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words (RFC 1071), 0 only for zeros."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big")
    return (total - 1) % 0xFFFF + 1 if total else 0


def pseudo_header(source: Address, target: Address, length: int) -> bytes:
    """The pseudo-header of a UDP checksum (RFC 768, RFC 8200 8.1)."""
    skip = 12 if target.is_ipv4 else 0
    return source.ip[skip:] + target.ip[skip:] + struct.pack(">IHH", length, 0, UDP)


def udp_checksum(source: Address, target: Address, datagram: bytes) -> int:
    """The checksum of a datagram. Its checksum field counts as zero. Never 0."""
    covered = pseudo_header(source, target, len(datagram)) + datagram[:6] + b"\0\0" + datagram[8:]
    return 0xFFFF - word_sum(covered) or 0xFFFF


_CHECKSUMS: dict[Checksum, Callable[[Address, Address, bytes], int]] = {
    "right": udp_checksum,
    "zero": lambda source, target, datagram: 0,
    "partial": lambda source, target, datagram: word_sum(pseudo_header(source, target, len(datagram))),
    "wrong": lambda source, target, datagram: udp_checksum(source, target, datagram) ^ 0x0101,
}


def packet(message: bytes, source: Address, target: Address, checksum: Checksum = "right") -> bytearray:
    """A whole packet of the target's family. "partial": the sender left the checksum to a device."""
    length = _UDP.size + len(message)
    datagram = _UDP.pack(source.port, target.port, length, 0) + message
    value = _CHECKSUMS[checksum](source, target, datagram)
    datagram = datagram[:6] + value.to_bytes(2, "big") + datagram[8:]
    if not target.is_ipv4:
        return bytearray(_V6.pack(6 << 28, length, UDP, TTL, source.ip, target.ip) + datagram)
    header = bytearray(
        _V4.pack(0x45, 0, 20 + length, 0, 0, TTL, UDP, 0, source.ip[12:], target.ip[12:]) + datagram
    )
    complete(header)
    return header


def complete(packet: bytearray) -> None:
    """Set the right checksum into an IPv4 header."""
    if packet and packet[0] >> 4 == 4:
        length = 4 * (packet[0] & 15)
        packet[10:12] = b"\0\0"
        packet[10:12] = (0xFFFF - word_sum(bytes(packet[:length]))).to_bytes(2, "big")


def ip_is_right(packet: bytes) -> bool:
    """Whether the checksum of the IP header is right; IPv6 has none."""
    return packet[0] >> 4 == 6 or word_sum(packet[: 4 * (packet[0] & 15)]) == 0xFFFF


def take_apart(packet: bytes) -> UdpDatagram | None:
    """The UDP datagram of a whole, plain packet that may be ours; else None."""
    version = packet[0] >> 4 if packet else 0
    begin = {4: 20, 6: 40}.get(version, 0)
    if not begin or len(packet) < begin + _UDP.size + 4:
        return None
    if version == 4:
        ips = [_MAPPED + packet[at : at + 4] for at in (12, 16)]
        end, kind = int.from_bytes(packet[2:4], "big"), packet[9]
        plain = packet[0] == 0x45 and int.from_bytes(packet[6:8], "big") & 0x3FFF == 0
    else:
        ips = [packet[at : at + 16] for at in (8, 24)]
        end, kind, plain = 40 + int.from_bytes(packet[4:6], "big"), packet[6], True
    source_port, target_port, length, check = _UDP.unpack_from(packet, begin)
    if kind != UDP or not plain or end > len(packet) or length != end - begin or length < _UDP.size + 4:
        return None
    source, target = Address(ips[0], source_port), Address(ips[1], target_port)
    datagram = packet[begin:end]
    return UdpDatagram(source, target, datagram[8:], begin + 8, _kind_of(check, source, target, datagram))


def _kind_of(check: int, source: Address, target: Address, datagram: bytes) -> Checksum:
    if check == 0:
        return "zero"
    if check == udp_checksum(source, target, datagram):
        return "right"
    partial = word_sum(pseudo_header(source, target, len(datagram)))
    return "partial" if check == partial else "wrong"
