"""Addresses of this host, and those that it does not have yet: of a standby, and IPv6 addresses that are still tentative.

The kernel first looks whether another host has a new IPv6 address (RFC 4862, duplicate address detection). It is tentative for
a second or two, and cannot be bound meanwhile.
"""

import errno
import fcntl
import socket
import struct
from array import array
from collections.abc import Iterable
from ipaddress import IPv6Address
from pathlib import Path

IP_FREEBIND, IPV6_FREEBIND = 15, 78
"""linux/in.h, linux/in6.h; Python's socket module has no names for them."""
IF_INET6 = Path("/proc/thread-self/net/if_inet6")
SIOCGIFCONF = 0x8912
_IFREQ = struct.Struct("16xHH4s16x")
"""linux/if.h, of 64 bits: the name, then a sockaddr_in."""
_IFCONF = struct.Struct("iP")
# Addresses that SIOCGIFCONF is asked for at once, more than a host has.
MOST_HOSTS = 4096
TENTATIVE, FAILED = 0x40, 0x08
"""IFA_F_TENTATIVE, IFA_F_DADFAILED of linux/if_addr.h"""


def allow_absent(sock: socket.socket) -> None:
    """Let a socket be bound to an address that this host does not have (yet). Raises OSError."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)


def hosts() -> list[str]:
    """All addresses of this host, in this thread's network namespace. Raises OSError."""
    return [*_hosts4(), *_hosts6()]


def _hosts4() -> list[str]:
    found = array("B", bytes(MOST_HOSTS * _IFREQ.size))
    at, length = found.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFCONF, _IFCONF.pack(length, at))
    used, _ = _IFCONF.unpack(answer)
    return [socket.inet_ntoa(ip) for _, _, ip in _IFREQ.iter_unpack(found.tobytes()[:used])]


def _hosts6() -> list[str]:
    try:
        lines = IF_INET6.read_text().splitlines()
    except OSError:  # no IPv6
        return []
    return [str(IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines]


def interface_of(host: str) -> int:
    """The index of the interface with this IPv6 address, in this thread's network namespace. Raises OSError without one."""
    wanted = IPv6Address(host)
    for line in IF_INET6.read_text().splitlines():
        packed, index = line.split()[:2]
        if IPv6Address(bytes.fromhex(packed)) == wanted:
            return int(index, 16)
    raise OSError(errno.EADDRNOTAVAIL, f"no interface has {host}")


def tentative(hosts: Iterable[str]) -> list[str]:
    """Those that the kernel is still looking for on other hosts. In this thread's network namespace."""
    try:
        lines = IF_INET6.read_text().splitlines()
    except OSError:  # no IPv6
        return []
    found = {IPv6Address(bytes.fromhex(line.split()[0])) for line in lines if _is_tentative(line)}
    return [host for host in hosts if ":" in host and IPv6Address(host) in found]


def _is_tentative(line: str) -> bool:
    flags = int(line.split()[4], 16)
    return bool(flags & TENTATIVE) and not flags & FAILED
