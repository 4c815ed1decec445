"""Messages as bytes and bytes as messages: the wire format, and nothing that moves it.

Layer 0. `parse` takes untrusted bytes and ends in a Message or in BadPacket, in nothing
else. Layouts come from include/kdht_shared.h through kdht._shared; docs/protocol.md has
the diagrams and their meaning.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from kdht import _shared as shared
from kdht._shared import Flag, Op, Status, siphash
from kdht.errors import BadPacket
from kdht.keys import ClusterKey

NO_IP = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"


class Address(NamedTuple):
    """A UDP endpoint: 16 bytes of IPv6 or IPv4-mapped address, and a port."""

    ip: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """From a numeric host; raises ValueError for anything else."""
        address = ip_address(host)
        packed = _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed
        return cls(packed, port)

    @property
    def is_ipv4(self) -> bool:
        return self.ip[:12] == _MAPPED

    @property
    def host(self) -> str:
        """The address as text, IPv4 in its own form."""
        return str(IPv4Address(self.ip[12:]) if self.is_ipv4 else IPv6Address(self.ip))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.is_ipv4 else f"[{self.host}]:{self.port}"


NOWHERE = Address(NO_IP, 0)


class Contact(NamedTuple):
    """A node that others may route to: 20 bytes of ID, and where it listens."""

    id: bytes
    ip: bytes
    port: int

    @property
    def address(self) -> Address:
        return Address(self.ip, self.port)
