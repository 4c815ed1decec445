"""Endpoints as payloads of members: the one form that the faces read. Layer 0.

Parsing gives an Endpoint or raises BadPacket, nothing else. docs/protocol.md has the form.
"""

import struct
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.wire.addresses import MAPPED, Address, split_port
from kdht.wire.buffer import Buffer
from kdht.wire.sets import MAX_PAYLOAD

#  0        1        2                 4
#  | 01     | family | port            | address, 4 or 16 bytes | priority 1 | weight 1 | text ...

FORM = 1
IPV4, IPV6 = 1, 2
"""Address families as IANA numbers them."""

_HEAD = struct.Struct(">BBH")
_LENGTH = {IPV4: 4, IPV6: 16}
_PREFERENCE = struct.Struct(">BB")


class Endpoint(NamedTuple):
    """Where a service is."""

    address: Address
    """Port 0: none."""
    priority: int = 0
    """0 to 255: the lowest one is asked first (RFC 2782)."""
    weight: int = 1
    """0 to 255: the share among those of one priority."""
    text: bytes = b""

    @classmethod
    def of(cls, text: str) -> "Endpoint":
        """From "10.0.0.7:80", "[fd00::7]:80" or an address alone. Raises ValueError."""
        return cls(Address.of(*split_port(text, 0)))

    def pack(self) -> bytes:
        """Raises ValueError if a number or the text does not fit."""
        ip, port = self.address
        family, packed = (IPV4, ip[12:]) if self.address.is_ipv4 else (IPV6, ip)
        try:
            numbers = _HEAD.pack(FORM, family, port) + packed + _PREFERENCE.pack(self.priority, self.weight)
        except struct.error as error:
            raise ValueError(f"an endpoint: {error}") from None
        if len(numbers) + len(self.text) > MAX_PAYLOAD:
            raise ValueError(f"an endpoint's text has at most {MAX_PAYLOAD - len(numbers)} bytes")
        return numbers + self.text


def parse_endpoint(payload: Buffer) -> Endpoint:
    """From an untrusted payload. Raises BadPacket."""
    if len(payload) < _HEAD.size:
        raise BadPacket("TRUNCATED", f"an endpoint in {len(payload)} bytes")
    form, family, port = _HEAD.unpack_from(payload)
    length = _LENGTH.get(family)
    if form != FORM or length is None:
        raise BadPacket("FAMILY", f"an endpoint of the form {form} and the family {family}")
    end = _HEAD.size + length
    if len(payload) < end + _PREFERENCE.size:
        raise BadPacket("TRUNCATED", f"an endpoint in {len(payload)} bytes")
    packed = bytes(payload[_HEAD.size : end])
    priority, weight = _PREFERENCE.unpack_from(payload, end)
    ip = MAPPED + packed if family == IPV4 else packed
    if family == IPV6 and IPv6Address(packed).ipv4_mapped:
        raise BadPacket("FAMILY", "an IPv4-mapped address as an IPv6 one")
    return Endpoint(Address(ip, port), priority, weight, bytes(payload[end + _PREFERENCE.size :]))


MAX_TEXT_FORM = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")


def read_endpoint(payload: Buffer) -> Endpoint | None:
    """The endpoint of an untrusted payload in either form, bytes or text such as "10.0.0.7:80"; None if it is neither."""
    data = bytes(payload)
    if data[:1] == bytes([FORM]):
        try:
            return parse_endpoint(data)
        except BadPacket:
            # The payload is somebody's own form, and no fault.
            return None
    if len(data) > MAX_TEXT_FORM or not data.isascii():
        return None
    try:
        host, port = split_port(data.decode(), 0)
        address = ip_address(host)
    except ValueError:
        return None
    # "fe80::1%eth0" names an interface of the announcer's host.
    return None if getattr(address, "scope_id", None) else Endpoint(Address.of(host, port))
