"""Random IP packets for one node: traffic.py's messages in IP, right and deformed."""

import random
import struct
from collections.abc import Callable

import builders
from builders import CHECKSUMS, Node
from traffic import Datagram, Weighted, pick, random_datagram

from kdht.replay.oracle import version_of
from kdht.replay.oracle_packets import EXTENSION_HEADERS, FRAGMENT_HEADER, UDP
from kdht.wire import Address

OTHER_HOSTS = {4: builders.packed("198.51.100.1"), 6: builders.packed("2001:db8:9::1")}


def udp_start(packet: bytearray) -> int:
    return 20 if packet[0] >> 4 == 4 else 40


def has_udp(packet: bytearray) -> bool:
    return len(packet) > 0 and len(packet) >= udp_start(packet) + 8


# --- Deformed packets: in place, on packets that hold a whole UDP header --------------------


def flip_bit(rng: random.Random, packet: bytearray) -> None:
    packet[rng.randrange(min(len(packet), udp_start(packet) + 12))] ^= 1 << rng.randrange(8)


def change_byte(rng: random.Random, packet: bytearray) -> None:
    packet[rng.randrange(min(len(packet), udp_start(packet) + 8))] = rng.choice((0, 1, 17, 64, 255))


def cut(rng: random.Random, packet: bytearray) -> None:
    del packet[rng.randrange(len(packet)) :]


def cut_consistently(rng: random.Random, packet: bytearray) -> None:
    """A shorter packet whose IP length is right; the UDP length may be."""
    start = udp_start(packet)
    left = rng.choice((0, 4, 7, 8, 9, 11, 12, 50))
    del packet[start + left :]
    struct.pack_into(">H", packet, 2 if start == 20 else 4, len(packet) - (0 if start == 20 else 40))
    if left >= 6 and rng.random() < 0.5:
        struct.pack_into(">H", packet, start + 4, left)


def pad(rng: random.Random, packet: bytearray) -> None:
    packet.extend(rng.randbytes(rng.choice((1, 4, 18, 46))))


def change_udp_length(rng: random.Random, packet: bytearray) -> None:
    at = udp_start(packet) + 4
    length = struct.unpack_from(">H", packet, at)[0]
    struct.pack_into(">H", packet, at, rng.choice((0, 7, 8, length - 1, length + 1, 0xFFFF)) % 65536)


def change_ip_length(rng: random.Random, packet: bytearray) -> None:
    at = 2 if packet[0] >> 4 == 4 else 4
    length = struct.unpack_from(">H", packet, at)[0]
    struct.pack_into(">H", packet, at, rng.choice((0, 8, 20, 28, 31, length - 1, length + 1, 0xFFFF)) % 65536)


def change_port(rng: random.Random, packet: bytearray) -> None:
    at = udp_start(packet) + 2
    struct.pack_into(">H", packet, at, rng.choice((0, 53, struct.unpack_from(">H", packet, at)[0] ^ 1)))


def fragment(rng: random.Random, packet: bytearray) -> None:
    """IPv4: a first, middle or last fragment, or a flag without meaning here."""
    if packet[0] >> 4 == 4:
        struct.pack_into(
            ">H", packet, 6, rng.choice((0x2000, 0x2000, 0x2001, 0x0001, 0x00B9, 0x4000, 0x8000))
        )


def add_options(rng: random.Random, packet: bytearray) -> None:
    if packet[0] >> 4 == 4:
        options = rng.randbytes(4 * rng.choice((1, 2, 10)))
        packet[20:20] = options
        packet[0] = 0x45 + len(options) // 4
        struct.pack_into(">H", packet, 2, min(len(packet), 65535))


def add_extensions(rng: random.Random, packet: bytearray) -> None:
    """IPv6: a chain of extension headers that mostly ends at our UDP header, or too late, or nowhere."""
    if packet[0] >> 4 != 6:
        return
    kinds = [rng.choice(list(EXTENSION_HEADERS)) for _ in range(rng.choice((1, 1, 2, 3, 5, 6, 6, 7, 8)))]
    following = rng.choice((UDP, UDP, UDP, UDP, 59, 6, 50))
    chain = b""
    for kind in reversed(kinds):
        chain = extension(rng, kind, following) + chain
        following = kind
    packet[6] = following
    packet[40:40] = chain
    struct.pack_into(">H", packet, 4, min(len(packet) - 40, 65535))
    if rng.random() < 0.1:
        struct.pack_into(">H", packet, 4, rng.randrange(len(chain) + 12))


def extension(rng: random.Random, kind: int, following: int) -> bytes:
    if kind == FRAGMENT_HEADER:
        offset = rng.choice((0, 0, 0, 8, 0xFFF8))
        return struct.pack(">BBHI", following, rng.choice((0, 7)), offset | rng.choice((0, 1, 6)), 99)
    units = rng.choice((0, 0, 0, 1, 5, 255) if rng.random() < 0.3 else (0,))
    return struct.pack(">BB", following, units) + rng.randbytes(6 + 8 * units * (rng.random() < 0.9))


DEFORMATIONS: Weighted[Callable[[random.Random, bytearray], None]] = [
    (3, flip_bit),
    (2, change_byte),
    (1, cut),
    (2, cut_consistently),
    (2, pad),
    (2, change_udp_length),
    (2, change_ip_length),
    (1, change_port),
    (2, fragment),
    (2, add_options),
    (5, add_extensions),
]


def mapped_addresses(rng: random.Random, datagram: Datagram) -> bytearray:
    """IPv6 from an IPv4-mapped address, or to one, too: no kernel sends that."""
    source = datagram.source._replace(ip=builders.packed("10.0.0.99"))
    return builders.ipv6(builders.udp(datagram.payload, source, source), source, datagram.target)


def random_packet(rng: random.Random, node: Node) -> bytearray:
    """A packet that reaches the node; now and then no packet at all, or another host's."""
    if rng.random() < 0.01:
        return bytearray(rng.choice((b"", b"\x45", b"\x60", b"\x20" + bytes(60), rng.randbytes(60))))
    version = version_of(rng.choice(node.settings.own))
    datagram = random_datagram(rng, node, version)
    if rng.random() < 0.03:
        elsewhere = Address(OTHER_HOSTS[version], datagram.target.port)
        datagram = datagram._replace(target=elsewhere)
    made = wrapped(rng, datagram) if rng.random() > 0.01 else mapped_addresses(rng, datagram)
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if has_udp(made):
                pick(rng, DEFORMATIONS)(rng, made)
    return made


def wrapped(rng: random.Random, datagram: Datagram) -> bytearray:
    checksum = rng.choices(CHECKSUMS, (70, 5, 20, 5))[0]
    return builders.packet(*datagram, checksum=checksum)
