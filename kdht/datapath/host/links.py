"""What an interface carries, and has carried, asked without netlink. In the network namespace of the calling thread."""

import fcntl
import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from kdht.wire._shared import MAX_DATAGRAM

# No fragments: datapaths drop them, so a message must fit one packet.
LEAST_MTU = MAX_DATAGRAM + 40 + 8
"""An IPv6 and a UDP header around the longest message."""
_SIOCGIFMTU = 0x8921
_NET = Path("/proc/thread-self/net")
_TX_PACKETS, _DROPPED = 9, (2, 3, 10, 11)
"""Columns of a line of `dev`, after the name: a driver counts a packet that it cannot redirect where it came in."""
_IFREQ = struct.Struct("16si20x")


def mtu_of(interface: str) -> int | None:
    """The most bytes of a packet; None if there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFMTU, _IFREQ.pack(interface.encode(), 0))
        except OSError:
            return None
    mtu: int = _IFREQ.unpack(answer)[1]
    return mtu


class Sent(NamedTuple):
    """Packets so far, in this network namespace."""

    packets: int
    """Sent by the interfaces that were asked for."""
    dropped: int
    """Dropped or refused by them or their drivers, in either direction."""
    local: int
    """Sent by this host's programs, but not to itself."""


def sent(interfaces: Collection[str]) -> Sent:
    """The counts of these interfaces together."""
    counts = _counts()
    chosen = [count for name, count in counts.items() if name in interfaces]
    looped = counts["lo"][_TX_PACKETS] if "lo" in counts else 0
    return Sent(
        sum(count[_TX_PACKETS] for count in chosen),
        sum(count[column] for count in chosen for column in _DROPPED),
        _requests() - looped,
    )


def _counts() -> dict[str, list[int]]:
    """The counts of `dev`, by interface."""
    found = {}
    for line in _lines("dev")[2:]:
        name, _, rest = line.partition(":")
        found[name.strip()] = [int(each) for each in rest.split()]
    return found


def _requests() -> int:
    """Packets of IPv4 and IPv6 that programs of this host have sent."""
    names, values = ([line.split() for line in _lines("snmp") if line.startswith("Ip:")] + [[], []])[:2]
    found = dict(zip(names, values, strict=False)).get("OutRequests", "0")
    fields = dict(line.split() for line in _lines("snmp6"))
    return int(found) + int(fields.get("Ip6OutRequests", "0"))


def _lines(name: str) -> list[str]:
    """Of a file of the kernel's counts. Empty without such a file: a host may have no IPv6."""
    try:
        return (_NET / name).read_text().splitlines()
    except OSError:
        return []
