"""A socket filter that marks datagrams from outside with a source of this host.

The answer to such a datagram would go to a program on this host, past its firewall. The kernel refuses them for
IPv4 (unless accept_local is on), but not for IPv6. A socket cannot tell them from those of local clients: the
interface in IPV6_PKTINFO is that of the own address, for local ones too. A filter of classic BPF needs no root and
sees the device where a packet came in; packets of this host come in at lo. It cannot add a mark, so it cuts the
datagram's payload off. The core then drops and counts it (MARTIAN).

Local traffic of a VRF comes in at the VRF's device, so there local clients need another address than the node's.
"""

import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence

from kdht.wire import Address

_SO_ATTACH_FILTER = 26
_LOAD_WORD, _LOAD_TOP_BYTE = 0x20, 0x30  # from an absolute offset
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_DEVICE = 0xFFFFF008  # SKF_AD_OFF + SKF_AD_IFINDEX
_LOOPBACK_DEVICE = 1  # in every network namespace
_IP_HEADER = 0xFFF00000  # SKF_NET_OFF
_SOURCE = {True: 12, False: 8}  # offset of the source address, for IPv4 and IPv6
_WHOLE, _UDP_HEADER_ALONE = 0xFFFFFFFF, 8
_LOOPBACK6 = bytes(15) + b"\1"

Step = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, operand."""


def mark_outside(sock: socket.socket, own: Sequence[bytes]) -> None:
    """Cut datagrams from outside whose source is in `own` (16 bytes each) or loopback. Raises OSError."""
    ipv4 = sock.family == socket.AF_INET
    chosen = [ip for ip in own if Address(ip, 0).is_ipv4 == ipv4]
    steps = list(_program(ipv4, chosen))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(code))
    )


def _program(ipv4: bool, own: Sequence[bytes]) -> Iterator[Step]:
    # The device first: nearly all packets of a node with clients elsewhere are decided by the address alone,
    # but those of local clients must never be cut.
    yield _LOAD_WORD, 0, 0, _DEVICE
    yield _JUMP_IF_EQUAL, 0, 1, _LOOPBACK_DEVICE
    yield _RETURN, 0, 0, _WHOLE
    if ipv4:
        # All of 127.0.0.0/8 is loopback, so one byte is enough.
        yield _LOAD_TOP_BYTE, 0, 0, _IP_HEADER + _SOURCE[ipv4]
        yield _JUMP_IF_EQUAL, 0, 1, 127
        yield _RETURN, 0, 0, _UDP_HEADER_ALONE
    for ip in own if ipv4 else [*own, _LOOPBACK6]:
        yield from _cut_if_from(ip[12:] if ipv4 else ip, _SOURCE[ipv4])
    yield _RETURN, 0, 0, _WHOLE


def _cut_if_from(ip: bytes, at: int) -> Iterator[Step]:
    """Each word that differs jumps behind the end of these steps."""
    words = struct.unpack(f">{len(ip) // 4}I", ip)
    for number, word in enumerate(words):
        left = 2 * (len(words) - number - 1)
        yield _LOAD_WORD, 0, 0, _IP_HEADER + at + 4 * number
        yield _JUMP_IF_EQUAL, 0, left + 1, word
    yield _RETURN, 0, 0, _UDP_HEADER_ALONE
