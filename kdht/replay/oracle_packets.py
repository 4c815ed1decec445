"""The oracle's half for whole IP packets: passed, dropped, and rewritten ones.

Checksums are computed from their definitions (RFC 768, RFC 1071, RFC 1624, RFC 8200) over
lists of 16-bit words. Foreign packets are never dropped for their lengths, but unreadable
headers are. The rules are in docs/design/routing.md.
"""

import struct
from typing import NamedTuple

from kdht.replay.oracle import OracleResult, SlowNode, UnchangedEnd, ensure, version_of
from kdht.wire import Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Reason, Verdict

UDP = 17
FRAGMENT_HEADER = 44
EXTENSION_HEADERS = {0: "hop-by-hop", 43: "routing", FRAGMENT_HEADER: "fragment", 60: "destination"}
MAPPED = bytes(10) + b"\xff\xff"
Ips = tuple[bytes, bytes]


class FoundDatagram(NamedTuple):
    """A UDP datagram in a packet: its start, its end, its source and target."""

    version: int
    udp: int
    end: int
    source: Address
    target: Address

    @property
    def message(self) -> int:
        return self.udp + 8


def decide_packet(node: SlowNode, packet: bytes, now: int) -> OracleResult:
    """The verdict on a whole packet, from its IP header on."""
    packet = bytes(packet)
    try:
        ensure(node.published is not None, Reason.NOT_READY)
        found = find_datagram(node, packet)
    except UnchangedEnd as ended:
        return OracleResult(ended.reason, packet)
    payload = packet[found.message : found.end]
    result = node.decide_message(payload, found.source, found.target, now, found.version)
    if result.verdict not in (Verdict.FORWARD, Verdict.RELAY):
        return result._replace(data=packet)
    return result._replace(data=rewritten(packet, found, result))


# --- What is ours ----------------------------------------------------------------------


def find_datagram(node: SlowNode, packet: bytes) -> FoundDatagram:
    version = packet[0] >> 4 if packet else None
    ensure(version in (4, 6), Reason.NOT_OURS)
    return (find_in_ipv4 if version == 4 else find_in_ipv6)(node, packet)


def find_in_ipv4(node: SlowNode, packet: bytes) -> FoundDatagram:
    ensure(len(packet) >= 20, Reason.BAD_IP)
    udp = 4 * (packet[0] & 15)
    total, fragment = (int.from_bytes(packet[at : at + 2], "big") for at in (2, 6))
    ensure(udp >= 20, Reason.BAD_IP)
    ensure(packet[9] == UDP and MAPPED + packet[16:20] in node.settings.own, Reason.NOT_OURS)
    ensure(fragment & 0x1FFF == 0, Reason.NOT_OURS)
    ensure(total <= len(packet), Reason.BAD_IP)
    check_ours(node, packet, udp, total)
    ensure(not fragment & 0x2000, Reason.FRAGMENT)
    ensure(udp == 20, Reason.IP_OPTIONS)
    ensure(folded(sum(words(packet[:20]))) == 0xFFFF, Reason.BAD_CHECKSUM)
    check_udp_length(packet, udp, total)
    return found(packet, 4, udp, total, MAPPED + packet[12:16], MAPPED + packet[16:20])


def find_in_ipv6(node: SlowNode, packet: bytes) -> FoundDatagram:
    ensure(len(packet) >= 40, Reason.BAD_IP)
    source, target = packet[8:24], packet[24:40]
    ensure(target in node.settings.own and version_of(target) == 6, Reason.NOT_OURS)
    end = 40 + int.from_bytes(packet[4:6], "big")
    ensure(end <= len(packet), Reason.BAD_IP)
    if packet[6] != UDP:
        end_at_extensions(node, packet, end)
    check_ours(node, packet, 40, end)
    ensure(packet[46:48] != b"\0\0", Reason.NO_CHECKSUM)
    check_udp_length(packet, 40, end)
    ensure(version_of(source) == 6, Reason.BAD_ADDRESS)
    return found(packet, 6, 40, end, source, target)


def end_at_extensions(node: SlowNode, packet: bytes, end: int) -> None:
    """kdht packets have no extension headers. Drop those that would be ours without them, pass the rest."""
    seen: list[int] = []
    following, at = packet[6], 40
    while following in EXTENSION_HEADERS:
        ensure(len(seen) < shared.MAX_EXT_HEADERS, Reason.NOT_OURS)
        seen.append(following)
        ensure(at + 8 <= end, Reason.BAD_IP)
        length = 8 if following == FRAGMENT_HEADER else 8 * (packet[at + 1] + 1)
        if following == FRAGMENT_HEADER:
            offset = int.from_bytes(packet[at + 2 : at + 4], "big") >> 3
            ensure(offset == 0, Reason.NOT_OURS)
        following, at = packet[at], at + length
    ensure(following == UDP, Reason.NOT_OURS)
    check_ours(node, packet, at, end)
    raise UnchangedEnd(Reason.FRAGMENT if FRAGMENT_HEADER in seen else Reason.EXT_HEADER)


def check_ours(node: SlowNode, packet: bytes, udp: int, end: int) -> None:
    """The port and the magic of the UDP datagram at `udp`."""
    ensure(udp + 8 <= end, Reason.BAD_IP)
    ensure(int.from_bytes(packet[udp + 2 : udp + 4], "big") == node.settings.port, Reason.NOT_OURS)
    magic = packet[udp + 8 : min(udp + 12, end)]
    ensure(magic == shared.MAGIC.to_bytes(4, "big"), Reason.NOT_OURS)


def check_udp_length(packet: bytes, udp: int, end: int) -> None:
    ensure(int.from_bytes(packet[udp + 4 : udp + 6], "big") == end - udp, Reason.BAD_IP)


def found(packet: bytes, version: int, udp: int, end: int, source: bytes, target: bytes) -> FoundDatagram:
    source_port, target_port = struct.unpack_from(">HH", packet, udp)
    return FoundDatagram(version, udp, end, Address(source, source_port), Address(target, target_port))


# --- Rewriting -------------------------------------------------------------------------


def words(data: bytes) -> list[int]:
    padded = data + bytes(len(data) % 2)
    return [number for (number,) in struct.iter_unpack(">H", padded)]


def folded(total: int) -> int:
    """A sum of words with its carries added in at the low end."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def complement(word: int) -> int:
    return word ^ 0xFFFF


def ip_of(address: Address, version: int) -> bytes:
    return address.ip[12:] if version == 4 else address.ip


def pseudo_sum(source: bytes, target: bytes, udp_length: int) -> int:
    return sum(words(source + target)) + UDP + udp_length


def udp_checksum(source: bytes, target: bytes, datagram: bytes) -> int:
    """In full, over a datagram whose checksum field counts as zero; never zero."""
    total = pseudo_sum(source, target, len(datagram)) + sum(words(datagram[:6] + datagram[8:]))
    return complement(folded(total)) or 0xFFFF


def rewritten(packet: bytes, found: FoundDatagram, result: OracleResult) -> bytes:
    """The packet with its new addresses, ports, TTL, message and checksums."""
    old = packet[found.udp : found.end]
    assert result.source is not None
    assert result.target is not None
    old_ips = ip_of(found.source, found.version), ip_of(found.target, found.version)
    new_ips = ip_of(result.source, found.version), ip_of(result.target, found.version)
    ports = struct.pack(">HH", result.source.port, result.target.port)
    new = ports + old[4:8] + result.data
    checksum = new_checksum(old_ips, new_ips, old, new)
    datagram = new[:6] + checksum.to_bytes(2, "big") + new[8:]
    header = rewritten_ip(packet[: found.udp], found.version, *new_ips)
    return header + datagram + packet[found.end :]


def new_checksum(old_ips: Ips, new_ips: Ips, old: bytes, new: bytes) -> int:
    """The checksum for `new`. Its field still has that of `old`."""
    before = int.from_bytes(old[6:8], "big")
    if before == 0:
        return 0
    if before == folded(pseudo_sum(*old_ips, len(old))):
        return udp_checksum(*new_ips, new)
    kept = slice(8, 8 + shared.HEADER_LEN)
    gone = words(b"".join(old_ips) + old[:4] + old[kept])
    come = words(b"".join(new_ips) + new[:4] + new[kept])
    return complement(folded(complement(before) + sum(map(complement, gone)) + sum(come))) or 0xFFFF


def rewritten_ip(header: bytes, version: int, source: bytes, target: bytes) -> bytes:
    if version == 6:
        return header[:7] + bytes([shared.NEW_TTL]) + source + target
    header = header[:8] + bytes([shared.NEW_TTL]) + header[9:10] + b"\0\0" + source + target
    checksum = complement(folded(sum(words(header))))
    return header[:10] + checksum.to_bytes(2, "big") + header[12:]
