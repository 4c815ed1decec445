"""Addresses (IP and port) as text and as bytes, and contacts."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from kdht.wire import _shared as shared

NO_IP = bytes(16)
_LOOPBACK = bytes(15) + b"\x01"
MAPPED = bytes(10) + b"\xff\xff"


class Address(NamedTuple):
    """A UDP endpoint: 16 bytes of IPv6 or IPv4-mapped address, and a port."""

    ip: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """From a numeric host. Raises ValueError for a name."""
        address = ip_address(host)
        # One form for both IP versions: a header has one field for an address, and a comparison of bytes is one
        # of addresses.
        packed = MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed
        return cls(packed, port)

    @property
    def is_ipv4(self) -> bool:
        return self.ip[:12] == MAPPED

    @property
    def is_loopback(self) -> bool:
        """Only this host can send to it."""
        return self.ip[12] == 127 if self.is_ipv4 else self.ip == _LOOPBACK

    @property
    def host(self) -> str:
        """The IP address as text; an IPv4-mapped one in dotted form."""
        return str(IPv4Address(self.ip[12:]) if self.is_ipv4 else IPv6Address(self.ip))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.is_ipv4 else f"[{self.host}]:{self.port}"


NOWHERE = Address(NO_IP, 0)


def split_port(text: str, default: int = shared.PORT) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]:port" or a bare IPv6 address.

    Raises ValueError if the host is missing, if the port is not a number from 1 to 65535, or if the end of a bare IPv6
    address may be meant for a port.
    """
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        if text.endswith("]"):
            host, colon, port = text, "", ""
        if not host.endswith("]"):
            raise ValueError("a bracket is not closed")
        host = host[1:-1]
    # More than one colon without brackets is an IPv6 address, whose last group is no port.
    elif not colon or ":" in host:
        _refuse_port_without_brackets(host, port)
        host, colon, port = text, "", ""
    if not host:
        raise ValueError("the host is missing")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"the port is a number from 1 to 65535, not {port!r}")
    return host, int(port) if colon else default


def _refuse_port_without_brackets(host: str, end: str) -> None:
    """fd53::2:5348 is an address, too: it would be asked in vain, and nothing would say why. Raises ValueError."""
    if host and end.isascii() and end.isdigit() and 1024 <= int(end) < 65536:
        short = f"{host}:" if host.endswith(":") else host
        raise ValueError(
            f"{end} may be a port or the end of an IPv6 address: write [{short}]:{end} or [{host}:{end}]"
        )


class Contact(NamedTuple):
    """A node that others may route to: its ID (20 bytes), IP address (16 bytes) and port."""

    id: bytes
    ip: bytes
    port: int

    @property
    def address(self) -> Address:
        return Address(self.ip, self.port)

    @property
    def is_ipv4(self) -> bool:
        return self.ip[:12] == MAPPED
