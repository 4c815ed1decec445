"""A UDP server's socket in the event loop. Answers leave from the address that was asked, on wildcard addresses too."""

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kdht.config.values import FaceEndpoint
from kdht.errors import ConfigError
from kdht.wire.addresses import MAPPED

MAX_DATAGRAM = 4096
"""Bytes that are read of one; no client of a face sends more."""
BATCH = 64
"""Datagrams between two turns of the event loop."""
BUFFER = 4 << 20
"""Bytes of datagrams that may wait in the kernel; it takes less, if net.core.rmem_max is less."""
NOT_ALLOWED = "not_allowed"
"""The counter of what clients send whom the lists in [access] do not let in."""
IP_PKTINFO = 8
_INFO_ROOM = socket.CMSG_SPACE(20)


class Peer(NamedTuple):
    """Who asked."""

    ip: bytes
    """16 bytes, as Address.ip."""
    port: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    asked_at: list[tuple[int, int, bytes]]
    """Ancillary data that has the answer leave from the address that was asked; empty where there is only one."""


class UdpServer:
    """`field`: the table and field of the configuration that has `at`.

    `serves` says whether the client at 16 bytes of address is served; datagrams of others are dropped. `receive` gets the rest,
    and must not block.
    """

    def __init__(
        self,
        at: FaceEndpoint,
        field: str,
        serves: Callable[[bytes], bool],
        receive: Callable[[bytes, Peer], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._at = at
        self._field = field
        self._serves = serves
        self._receive = receive
        self._sock: socket.socket | None = None
        self._is_wildcard = at.is_wildcard
        self._is_ipv4 = ":" not in at.host

    def start(self) -> None:
        """Bind and listen. Raises ConfigError."""
        sock = socket.socket(socket.AF_INET if self._is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if not self._is_ipv4:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if self._is_wildcard and self._is_ipv4:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            elif self._is_wildcard:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.bind((self._at.host, self._at.port))
        except OSError as error:
            sock.close()
            raise cannot_listen(self._field, self._at, error) from error
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def stop(self) -> None:
        """Close. May be called again, and without a start."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def send(self, data: bytes, peer: Peer) -> None:
        """An answer. One that the kernel does not take is counted and lost."""
        if self._sock is None:
            return
        try:
            if peer.asked_at:
                self._sock.sendmsg([data], peer.asked_at, 0, peer.sockaddr)
            else:
                self._sock.sendto(data, peer.sockaddr)
        except OSError:
            self.counters["unsent"] += 1

    def _readable(self) -> None:
        for _ in range(BATCH):
            if self._sock is None:
                return
            try:
                data, info, _, sockaddr = self._received(self._sock)
            except BlockingIOError:
                # All that waited is read.
                return
            except OSError:
                # An ICMP error to an earlier answer, say; the next datagram is another matter.
                self.counters["receive_errors"] += 1
                continue
            ip = self._ip_of(sockaddr[0])
            if self._serves(ip):
                self._receive(data, Peer(ip, sockaddr[1], sockaddr, _back(info)))
            else:
                self.counters[NOT_ALLOWED] += 1

    def _received(self, sock: socket.socket):  # type: ignore[no-untyped-def]
        if self._is_wildcard:
            return sock.recvmsg(MAX_DATAGRAM, _INFO_ROOM)
        data, sockaddr = sock.recvfrom(MAX_DATAGRAM)
        return data, [], 0, sockaddr

    def _ip_of(self, host: str) -> bytes:
        if self._is_ipv4:
            return MAPPED + socket.inet_pton(socket.AF_INET, host)
        # A link-local address has its interface behind it.
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])


def _back(info: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What was asked, as where from to answer."""
    for level, kind, data in info:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # struct in_pktinfo: interface 4, the address to answer from 4, the address that was asked 4. Not the interface:
            # the route decides.
            return [(level, kind, struct.pack("=I4s4s", 0, data[8:12], bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data[:16] + bytes(4))]
    return []


def cannot_listen(field: str, at: FaceEndpoint, error: OSError) -> ConfigError:
    """An address of a face that cannot be bound."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(f"{field} has {at}: {why}: stop what uses it, or choose another")
