"""What an interface carries, asked without netlink. In the network namespace of the calling thread."""

import fcntl
import socket
import struct

from kdht.wire._shared import MAX_DATAGRAM

# No fragments: datapaths drop them, so a message must fit one packet.
LEAST_MTU = MAX_DATAGRAM + 40 + 8
"""An IPv6 and a UDP header around the longest message."""
_SIOCGIFMTU = 0x8921
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
