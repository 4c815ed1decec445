"""Captures packets to one UDP port at an interface, with the kernel's times.

A packet socket of the caller's network namespace, with a filter in the kernel, so other traffic
costs nothing. Packets dropped by the kernel are counted.
"""

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType

from kdht.errors import ConfigError, DatapathError

ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
# Some seconds of full traffic, while scapy is slow to read.
BUFFER = 32 << 20
WAIT = 0.1
"""Seconds after which the caller is asked whether to go on."""
_INSTRUCTION = struct.Struct("HBBI")
_STAMP = struct.Struct("qq")


def _filter(port: int) -> bytes:
    """Classic BPF over IP packets: UDP to `port`, any fragment of UDP's first bytes, extension headers."""
    accept, reject = 15, 16
    program = [
        (0x30, 0, 0, 0),  # the first byte
        (0x54, 0, 0, 0xF0),
        (0x15, 0, 5, 0x40),  # IPv4, else to 8
        (0x30, 0, 0, 9),
        (0x15, 0, reject - 5, 17),
        (0xB1, 0, 0, 0),  # the header's length
        (0x48, 0, 0, 2),
        (0x15, accept - 8, reject - 8, port),
        (0x15, 0, reject - 9, 0x60),  # IPv6
        (0x30, 0, 0, 6),
        (0x15, 0, 2, 17),  # UDP, else to 13
        (0x28, 0, 0, 42),
        (0x15, accept - 13, reject - 13, port),
        (0x15, accept - 14, 0, 44),  # a fragment header
        (0x15, accept - 15, reject - 15, 60),  # destination options
        (0x06, 0, 0, 0x40000),
        (0x06, 0, 0, 0),
    ]
    return b"".join(_INSTRUCTION.pack(*each) for each in program)


class Sniffer:
    """A context manager for the packets. Raises DatapathError without the necessary rights."""

    def __init__(self, interface: str, port: int) -> None:
        """Raises ConfigError for a missing interface."""
        self._interface = interface
        self.dropped = 0
        """Packets dropped by the kernel."""
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError:
            raise DatapathError("capturing needs root (CAP_NET_RAW)") from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            self._attach(_filter(port))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.settimeout(WAIT)
            self._socket.bind((interface, ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"{interface}: {error.strerror}: `ip link` lists the interfaces") from None

    def _attach(self, program: bytes) -> None:
        code = ctypes.create_string_buffer(program)
        head = struct.pack("HxxxxxxP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)

    def __enter__(self) -> "Sniffer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __iter__(self) -> Iterator[tuple[bytes, int] | None]:
        """Packets with their nanoseconds; None now and then, while nothing comes."""
        while True:
            try:
                data, messages, _, sender = self._socket.recvmsg(1 << 16, 64)
            except TimeoutError:
                yield None
                continue
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                yield None  # told once: the interface may come back, and the packets so far are kept
                continue
            if sender[2] != socket.PACKET_OUTGOING:
                yield data, _stamp_of(messages)

    def count_dropped(self) -> int:
        """Packets lost so far between the kernel and this program."""
        _, lost = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.dropped += lost
        return self.dropped


def _stamp_of(messages: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in messages:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= _STAMP.size:
            seconds, nanos = _STAMP.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanos)
    return time.time_ns()
