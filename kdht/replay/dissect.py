"""A packet as fields: the meaning of each byte, and the changes. scapy does the dissection.

For display only.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kdht.errors import ConfigError
from kdht.replay.packets import take_apart
from kdht.wire._shared import HEADER_LEN, LAYOUT

try:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.packet import Packet

    from kdht.wire.scapy_layer import KDHT
except ImportError:
    raise ConfigError("to show packets field by field needs scapy: pip install scapy") from None

_IPV4 = ((0, 1, "version"), (1, 1, "tos"), (2, 2, "len"), (4, 2, "id"), (6, 2, "frag"), (8, 1, "ttl"),
         (9, 1, "proto"), (10, 2, "chksum"), (12, 4, "src"), (16, 4, "dst"))  # fmt: skip
_IPV6 = ((0, 4, "version"), (4, 2, "plen"), (6, 1, "nh"), (7, 1, "hlim"), (8, 16, "src"), (24, 16, "dst"))
_UDP = ((0, 2, "sport"), (2, 2, "dport"), (4, 2, "len"), (6, 2, "chksum"))


class Field(NamedTuple):
    layer: str
    name: str
    value: str


class FieldChange(NamedTuple):
    """Differing neighbouring bytes of one field."""

    offset: int
    """From the IP header on."""
    field: str
    before: bytes
    after: bytes


def dissected(packet: bytes) -> Packet:
    """scapy's view of a packet from its IP header on; our messages on any port."""
    layer = IP if packet[0] >> 4 == 4 else IPv6
    found = layer(packet)
    if UDP in found and KDHT not in found and take_apart(packet) is not None:
        udp = found[UDP]
        message = KDHT(bytes(udp.payload))
        udp.remove_payload()
        udp.add_payload(message)
    return found


def fields(packet: bytes) -> list[Field]:
    """Every field with its value as text; empty if this is no IP packet."""
    if not packet or packet[0] >> 4 not in (4, 6):
        return [Field("data", "bytes", packet.hex())] if packet else []
    try:
        found = dissected(packet)
    except Exception:  # scapy's dissectors promise nothing about bad packets
        return [Field("data", "bytes", packet.hex())]
    made = []
    layer: Packet = found
    while layer:
        for name, value in layer.fields.items():
            kind = layer.get_field(name)
            made.append(Field(str(layer.name), name, _text(kind.i2repr(layer, value))))
        layer = layer.payload
    return made


def _text(value: object, limit: int = 96) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _layout(packet: bytes) -> Iterator[tuple[int, int, str]]:
    """(offset, length, name) of every field at a fixed place."""
    version = packet[0] >> 4 if packet else 0
    head, begin = (_IPV4, 4 * (packet[0] & 15)) if version == 4 else (_IPV6, 40)
    yield from ((at, size, f"IP.{name}") for at, size, name in head)
    yield from ((begin + at, size, f"UDP.{name}") for at, size, name in _UDP)
    yield from ((begin + 8 + at, size, name) for name, at, size in LAYOUT)
    body = begin + 8 + HEADER_LEN
    yield body, max(len(packet) - body, 0), "body"


def changes(before: bytes, after: bytes) -> list[FieldChange]:
    """The differences of two packets of one length, by field."""
    found = []
    for at, size, name in _layout(before):
        old, new = before[at : at + size], after[at : at + size]
        if old != new:
            found.append(FieldChange(at, name, old, new))
    return found
