"""The kinds of text that a configuration holds, each with its own check.

A kind is a str whose constructor raises ValueError with what is wrong; `ALLOWED` says
what is right, for error messages and for the example file.
"""

import re
from abc import abstractmethod
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import ClassVar, Self

from kdht.wire import Address, split_port
from kdht.wire._shared import ID_LEN

MAX_HOST = 253  # RFC 1035, as text
MAX_INTERFACE = 15  # IFNAMSIZ without its end
MAX_NAME = 64  # characters of a scope's or a holder's name
MAX_SOCKET_PATH = 107  # sun_path without its end


def _numeric(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not a numeric IPv4 or IPv6 address") from None
    if "%" in host or address.is_link_local:
        raise ValueError(f"{host} is link-local: other networks cannot reply to it")
    if address.is_multicast or host == "255.255.255.255":
        raise ValueError(f"{host} is not a unicast address")
    return host


class TextKind(str):
    """A text with a check; subclasses say what they allow."""

    ALLOWED: ClassVar[str]
    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        if not isinstance(text, str):
            raise TypeError(f"expected {cls.ALLOWED}")
        cls.check(text)
        return super().__new__(cls, text)

    @classmethod
    @abstractmethod
    def check(cls, text: str) -> None:
        """Raises ValueError, which says what is wrong with it."""


class Endpoint(TextKind):
    """Where this node listens."""

    ALLOWED = 'a numeric address, with or without a port: "10.0.0.1", "10.0.0.1:5348", "[fd00::1]:5348"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        _numeric(split_port(text)[0])

    @property
    def address(self) -> Address:
        return Address.of(*split_port(self))

    @property
    def is_wildcard(self) -> bool:
        return ip_address(split_port(self)[0]).is_unspecified


class HttpEndpoint(TextKind):
    """Where pages are served."""

    ALLOWED = 'a numeric address with a port: "127.0.0.1:9548", "[::1]:9548"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        host, port = split_port(text, 0)
        _numeric(host)
        if not port:
            raise ValueError("the port is missing")

    @property
    def host(self) -> str:
        return split_port(self)[0]

    @property
    def port(self) -> int:
        return split_port(self)[1]

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.host).is_loopback


class FaceEndpoint(HttpEndpoint):
    """Where a face listens."""

    ALLOWED = 'a numeric address with a port: "10.0.0.1:6969", "[fd00::1]:6969"'
    __slots__ = ()

    @property
    def address(self) -> Address:
        return Address.of(*split_port(self))

    @property
    def is_wildcard(self) -> bool:
        return ip_address(self.host).is_unspecified


class Ip(TextKind):
    """An address without a port."""

    ALLOWED = 'a numeric address without a port: "10.0.0.1", "fd00::1"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if ip_address(_numeric(text)).is_unspecified:
            raise ValueError(f"{text} is a wildcard, not one address")

    def at(self, port: int) -> Address:
        return Address.of(self, port)


class Prefix(TextKind):
    """All addresses of a network, or one address."""

    ALLOWED = 'a network or an address: "10.0.0.0/8", "fd00::/16", "10.1.2.3"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(str(error)) from None
        if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
            raise ValueError(f"{text} is IPv4: write {network.network_address.ipv4_mapped}")

    @property
    def network(self) -> IPv4Network | IPv6Network:
        return ip_network(self)


class HostPort(TextKind):
    """Another node, by address or by name."""

    ALLOWED = 'a host, with or without a port: "10.0.0.2", "node2.example:5348", "[fd00::2]:5348"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        host, _ = split_port(text)
        if len(host) > MAX_HOST or not host.isprintable() or any(c in host for c in " /\\[]"):
            raise ValueError(f"{host!r} is not a host name")

    @property
    def host(self) -> str:
        return split_port(self)[0]

    @property
    def port(self) -> int:
        return split_port(self)[1]

    @property
    def address(self) -> Address | None:
        """None for a name."""
        try:
            ip_address(self.host)
        except ValueError:
            # A host name.
            return None
        return Address.of(self.host, self.port)


class NodeId(TextKind):
    """How a node gets its ID at its first start."""

    ALLOWED = f'"balanced", "random" or {2 * ID_LEN} hexadecimal digits'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if text not in ("balanced", "random") and not re.fullmatch(f"[0-9a-fA-F]{{{2 * ID_LEN}}}", text):
            raise ValueError(f"expected {cls.ALLOWED}")
        if set(text) == {"0"}:
            raise ValueError("an ID of zeros is reserved")

    @property
    def id(self) -> bytes | None:
        """The ID itself, if it is one."""
        return None if self in ("balanced", "random") else bytes.fromhex(self)


class AbsolutePath(TextKind):
    """A file or directory, wherever the daemon is started from."""

    ALLOWED = "an absolute path"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not text.startswith("/") or "\0" in text:
            raise ValueError("the path does not begin with /")

    @property
    def path(self) -> Path:
        return Path(self)


class SocketPath(AbsolutePath):
    """A unix socket's file."""

    ALLOWED = f"an absolute path of at most {MAX_SOCKET_PATH} bytes"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        super().check(text)
        if len(text.encode()) > MAX_SOCKET_PATH:
            raise ValueError("the path is too long for a unix socket")


class Interface(TextKind):
    """A network interface."""

    ALLOWED = f"an interface name of 1 to {MAX_INTERFACE} characters, not lo"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not 0 < len(text.encode()) <= MAX_INTERFACE or any(c.isspace() or c in '/:"' for c in text):
            raise ValueError("not a valid interface name")
        if text == "lo":
            raise ValueError("lo cannot be used: its packets have their route already")


class HostName(TextKind):
    """A name of this host."""

    ALLOWED = f"a host name of 1 to {MAX_HOST} characters, without a port"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", text):
            raise ValueError("not a valid host name")


class HttpName(TextKind):
    """A name of a server in its URLs, or any."""

    ALLOWED = f'a host name of 1 to {MAX_HOST} characters, without a port, or "*"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if text != "*":
            HostName.check(text)


class Origin(TextKind):
    """Where a web page comes from (RFC 6454), or anywhere."""

    ALLOWED = 'an origin: "https://app.example.org", "http://127.0.0.1:8000", or "*"'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        # As browsers write it: in lower case, without a path. Anything else would match none.
        if text != "*" and not re.fullmatch(r"https?://[a-z0-9_.\-\[\]:]{1,300}", text):
            raise ValueError("not a valid origin")


class ZoneName(TextKind):
    """A DNS zone."""

    ALLOWED = 'a DNS name: "kdht.", "cluster.example."'
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not re.fullmatch(r"(?=.{1,200}$)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", text):
            raise ValueError("not a valid DNS name")


class ScopeName(TextKind):
    """The name of a scope: the keys that a token is good for."""

    ALLOWED = f"a name of 1 to {MAX_NAME} printable characters"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not 0 < len(text) <= MAX_NAME or not text.isprintable():
            raise ValueError(f"expected {cls.ALLOWED}")


class Holder(ScopeName):
    """Whom a token was made for: a name, or the holder's number as 16 hexadecimal digits."""

    ALLOWED = f"a name of 1 to {MAX_NAME} printable characters, or a holder's number, 16 hexadecimal digits but not all 0"
    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        super().check(text)
        if text == "0" * 16:
            raise ValueError("the holder 0 is nobody: it is for open scopes")
