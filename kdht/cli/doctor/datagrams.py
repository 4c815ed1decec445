"""Whether a node on this host answers clients: for whoever may not ask it by its control socket."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kdht.client import Client
from kdht.errors import KdhtError
from kdht.wire import Address
from kdht.wire._shared import ID_LEN, PORT

# Enough for one lost datagram and its retry. A finding should not be long in coming.
SECONDS = 2.0
_BOUND = ((Path("/proc/net/udp"), socket.AF_INET), (Path("/proc/net/udp6"), socket.AF_INET6))
"""proc(5): all users may read who listens where."""


def answering(own: Sequence[Address]) -> tuple[list[Address], list[Address]]:
    """Those of the addresses where a node answers a client, and those where none does. Without any: all on port 5348."""
    heard: list[Address] = []
    silent: list[Address] = []
    for address in own or bound():
        (heard if _answers(address) else silent).append(address)
    return heard, silent


def bound() -> list[Address]:
    """The addresses on this host at whose port 5348 some program listens; of a wildcard, the loopback one."""
    found: dict[Address, None] = {}
    for path, family in _BOUND:
        # Without IPv6 there is no udp6. A line in another form is no socket of ours.
        with suppress(OSError, ValueError, IndexError):
            for line in path.read_text().splitlines()[1:]:
                packed, port = line.split()[1].split(":")
                if int(port, 16) == PORT:
                    found[Address.of(_host(packed, family), PORT)] = None
    return list(found)


def _host(packed: str, family: socket.AddressFamily) -> str:
    """The kernel prints words of 4 bytes in the host's order."""
    words = [int(packed[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(packed), 8)]
    data = b"".join(words)
    if not any(data):
        return "127.0.0.1" if family == socket.AF_INET else "::1"
    return socket.inet_ntop(family, data)


def _answers(address: Address) -> bool:
    """A TRACE of one hop: every node answers it, ready or not, and it reads no record."""
    try:
        with Client(str(address), timeout=SECONDS, learn=False) as client:
            (hop,) = client.trace(bytes(ID_LEN), max_hops=1)
            return hop.contact is not None
    except KdhtError:
        return False
