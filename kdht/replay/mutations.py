"""One fault in a packet, by name, as an attacker, a bad network or a bug may send it.

Each mutation changes a right packet in place. Most tag the message again, so that it gets past the tags to
the intended check.
"""

import struct
from collections.abc import Callable
from random import Random
from typing import Protocol, TypeAlias

from kdht.replay import packets
from kdht.replay.packets import UDP
from kdht.replay.tables import ReplayTable
from kdht.wire import OFFSET, Address, Buffer, body_tag, header_tag
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag

SIZE = {name: size for name, _, size in shared.LAYOUT}
_FRAGMENT = 44
_DESTINATION = 60


class Scene(Protocol):
    """A mutation's context: the receiving node, the Unix second, and a random generator."""

    table: ReplayTable
    rng: Random
    now: int


Mutation: TypeAlias = Callable[[Scene, bytearray], None]


def udp_at(packet: Buffer) -> int:
    """The offset of UDP in an unchanged packet."""
    return 20 if packet[0] >> 4 == 4 else 40


def message_at(packet: Buffer) -> int:
    """Where the message begins."""
    return udp_at(packet) + 8


def put_field(packet: bytearray, name: str, value: int | bytes) -> None:
    """Change one field of the message's header."""
    at, size = message_at(packet) + OFFSET[name], SIZE[name]
    packet[at : at + size] = value if isinstance(value, bytes) else value.to_bytes(size, "big")


def field(packet: Buffer, name: str) -> int:
    """One field of the message's header."""
    at = message_at(packet) + OFFSET[name]
    return int.from_bytes(packet[at : at + SIZE[name]], "big")


def tag(scene: Scene, packet: bytearray) -> None:
    """Give a member's message right tags again, under its own epoch."""
    message = packet[message_at(packet) :]
    keys = {key.epoch: key for key in scene.table.keys}
    if field(packet, "flags") & Flag.FORWARDED and field(packet, "epoch") in keys:
        key = keys[field(packet, "epoch")]
        put_field(packet, "body_tag", body_tag(message, key))
        put_field(packet, "header_tag", header_tag(packet[message_at(packet) :], key))


def set_lengths(packet: bytearray) -> None:
    """Correct the lengths of IP and UDP, and the checksum of IPv4."""
    at = udp_at(packet)
    struct.pack_into(">H", packet, 2 if at == 20 else 4, min(len(packet) - (0 if at == 20 else 40), 0xFFFF))
    struct.pack_into(">H", packet, at + 4, min(len(packet) - at, 0xFFFF))
    packets.complete(packet)


def set_checksum(packet: bytearray) -> None:
    """Correct the UDP checksum, so that the kernel's stack passes the packet."""
    found = packets.take_apart(bytes(packet))
    if found is not None and found.checksum == "wrong":
        right = packets.packet(found.message, found.source, found.target)
        packet[found.begin - 2 : found.begin] = right[found.begin - 2 : found.begin]


def _field_mutation(name: str, value: int) -> Mutation:
    def mutate(scene: Scene, packet: bytearray) -> None:
        put_field(packet, name, value)
        tag(scene, packet)

    return mutate


def flip(scene: Scene, packet: bytearray) -> None:
    """One bit, anywhere."""
    packet[scene.rng.randrange(len(packet))] ^= 1 << scene.rng.randrange(8)


def cut(scene: Scene, packet: bytearray) -> None:
    """The end is missing, and the lengths say so."""
    del packet[scene.rng.randrange(message_at(packet), len(packet)) :]
    set_lengths(packet)


def cut_short(scene: Scene, packet: bytearray) -> None:
    """The end is missing, and the lengths do not say so."""
    del packet[scene.rng.randrange(len(packet)) :]


def lengthen(scene: Scene, packet: bytearray) -> None:
    """More than the body length says."""
    packet += bytes(scene.rng.choice((1, 4, 400)))
    set_lengths(packet)


def grow(scene: Scene, packet: bytearray) -> None:
    """A value of 1.5 KiB, with the right body length."""
    put_field(packet, "body_len", 1536)
    packet[message_at(packet) + shared.HEADER_LEN :] = bytes(1536)
    set_lengths(packet)
    tag(scene, packet)


def forge_origin(scene: Scene, packet: bytearray) -> None:
    """The answer's address, filled in by a non-member."""
    put_field(packet, "flags", field(packet, "flags") & ~Flag.FORWARDED)
    put_field(packet, "client_ip", Address.of("203.0.113.66", 0).ip)


def forge_flag(scene: Scene, packet: bytearray) -> None:
    """FORWARDED, without the tag of a member."""
    put_field(packet, "flags", field(packet, "flags") | Flag.FORWARDED)
    put_field(packet, "epoch", scene.table.keys[0].epoch)
    put_field(packet, "header_tag", scene.rng.getrandbits(64))


def break_tag(scene: Scene, packet: bytearray) -> None:
    put_field(packet, "header_tag", field(packet, "header_tag") ^ 1)


def break_body(scene: Scene, packet: bytearray) -> None:
    """The last byte, under a right header tag."""
    packet[-1] ^= 1


def age(scene: Scene, packet: bytearray) -> None:
    """Sealed too long ago, or too far ahead."""
    window = scene.table.window
    late = scene.rng.choice((window + 1, -window - 1, 3600))
    put_field(packet, "time", (scene.now - late) % 2**32)
    tag(scene, packet)


def fragment(scene: Scene, packet: bytearray) -> None:
    """The first fragment of more."""
    if packet[0] >> 4 == 4:
        struct.pack_into(">H", packet, 6, 0x2000)
    else:
        insert_extension(packet, _FRAGMENT, struct.pack(">BBHI", UDP, 0, 1, 99))
    set_ip_length(packet)


def add_options(scene: Scene, packet: bytearray) -> None:
    """IPv4 options, or an IPv6 extension header."""
    if packet[0] >> 4 == 4:
        packet[20:20] = b"\x01\x01\x01\x00"
        packet[0] = 0x46
    else:
        insert_extension(packet, _DESTINATION, bytes((UDP, 0, 1, 4, 0, 0, 0, 0)))
    set_ip_length(packet)


def insert_extension(packet: bytearray, kind: int, header: bytes) -> None:
    packet[40:40] = header
    packet[6] = kind


def set_ip_length(packet: bytearray) -> None:
    ipv4 = packet[0] >> 4 == 4
    struct.pack_into(">H", packet, 2 if ipv4 else 4, len(packet) - (0 if ipv4 else 40))
    packets.complete(packet)


def no_checksum(scene: Scene, packet: bytearray) -> None:
    struct.pack_into(">H", packet, udp_at(packet) + 6, 0)


MUTATIONS: dict[str, Mutation] = {
    "bit flipped": flip,
    "cut": cut,
    "cut short": cut_short,
    "too long": lengthen,
    "value of 1.5 KiB": grow,
    "wrong magic": _field_mutation("magic", shared.MAGIC ^ 1),
    "wrong version": _field_mutation("version", shared.VERSION + 1),
    "unknown op": _field_mutation("op", 0x7F),
    "unknown flag": _field_mutation("flags", 0x80 | Flag.FORWARDED),
    "reserved byte": _field_mutation("reserved1", 1),
    "lying body length": _field_mutation("body_len", 7),
    "huge body length": _field_mutation("body_len", 0xFFFF),
    "unknown epoch": _field_mutation("epoch", 255),
    "hop limit 0": _field_mutation("hops", 0),
    "forged origin": forge_origin,
    "forged FORWARDED": forge_flag,
    "wrong header tag": break_tag,
    "wrong body": break_body,
    "wrong time": age,
    "fragment": fragment,
    "options": add_options,
    "no checksum": no_checksum,
}
