"""Nodes as the user names them, and one connected UDP socket for each of their addresses.

A connected socket takes datagrams from that address only and hears of closed ports. For direct answers there is
one for each IP version that is not connected.
"""

import errno
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from kdht import _shared as shared
from kdht.client._datagram import ANY_NODE, Send
from kdht.errors import ConfigError, RequestError
from kdht.wire import split_port

Info: TypeAlias = tuple[Any, ...]
"""One row of getaddrinfo."""

BURST = 64
"""Datagrams read before others get their turn."""
NOBODY_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""A closed port, or no way to the host."""
RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked of the kernel, which gives what net.core.rmem_max allows."""


def node_list(nodes: str | Sequence[str]) -> list[tuple[str, int]]:
    """Hosts and ports; raises ConfigError for none, or for text that names none."""
    texts = [nodes] if isinstance(nodes, str) else list(nodes)
    if not texts:
        raise ConfigError('no nodes to ask: name at least one as "host:port"')
    try:
        return [split_port(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f'a node is "host:port", "[v6]:port" or a host alone: {error} in {texts}') from None


def unresolved(host: str, error: OSError) -> ConfigError:
    """The exception for a name that getaddrinfo does not know."""
    return ConfigError(f"the node {host!r} has no address: {error.strerror or error}")


def resolve(nodes: Iterable[tuple[str, int]]) -> list[Info]:
    """All addresses of all nodes, in order; raises ConfigError. Blocks for names."""
    infos: list[Info] = []
    for host, port in nodes:
        try:
            infos += socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise unresolved(host, error) from None
    return infos


class Sockets:
    """Everything that a client sends with; `direct`: beside the connected sockets those that are not.

    Raises RequestError if this host has no route to any of the addresses.
    """

    def __init__(self, infos: Iterable[Info], direct: bool = False) -> None:
        self._connected = _connect_all(infos)
        self._targets = [sock.getpeername() for sock in self._connected]
        self._nodes = {target: node for node, target in enumerate(self._targets)}
        families = {sock.family for sock in self._connected} if direct else set()
        self._open = {family: _udp_socket(family) for family in families}

    def __bool__(self) -> bool:
        return bool(self._connected)

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._connected)

    def __iter__(self) -> Iterator[tuple[int, socket.socket]]:
        """Each socket with the node that it hears, or ANY_NODE."""
        yield from enumerate(self._connected)
        for sock in self._open.values():
            yield ANY_NODE, sock

    def send(self, item: Send) -> bool:
        """As `send` does; nothing is sent any more after `close`."""
        if not self._connected:
            return True
        sock = self._connected[item.node]
        if item.direct:
            return send(self._open[sock.family], item.data, self._targets[item.node])
        return send(sock, item.data)

    def arrived(self, node: int, sock: socket.socket) -> Iterator[tuple[int, bytes | None]]:
        """What waits in the socket that hears `node`, BURST at most: who sent it, and None for one of ours that nobody took.

        To a socket that hears all, ANY_NODE sends what comes from none of the nodes asked.
        """
        for _ in range(BURST):
            try:
                if node == ANY_NODE:
                    data, source = sock.recvfrom(shared.MAX_DATAGRAM + 1)
                    yield self._nodes.get(source, ANY_NODE), data
                else:
                    yield node, sock.recv(shared.MAX_DATAGRAM + 1)
            except OSError as error:
                if node == ANY_NODE or error.errno not in NOBODY_THERE:
                    return
                yield node, None

    def close(self) -> None:
        for _, sock in self:
            sock.close()
        self._connected, self._open = [], {}


def _udp_socket(family: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def _connect_all(infos: Iterable[Info]) -> list[socket.socket]:
    """A non-blocking socket for each address that this host has a route to."""
    sockets: list[socket.socket] = []
    why = OSError(errno.EADDRNOTAVAIL, "no address")
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        sock = _udp_socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            why = error
        else:
            sockets.append(sock)
    if not sockets:
        raise RequestError(f"no node can be reached from this host: {why.strerror}")
    return sockets


def send(sock: socket.socket, data: bytes, target: Info | None = None) -> bool:
    """Send one datagram, to `target` by a socket that is not connected; False if nobody is there, as far as this host knows.

    What this host has no room for, or a filter of its own drops (EPERM), is lost as on the way.
    """
    transmit = partial(sock.send, data) if target is None else partial(sock.sendto, data, target)
    try:
        transmit()
    except ConnectionRefusedError:
        # The kernel reports the earlier datagram in place of sending this one.
        with suppress(OSError):
            transmit()
        return False
    except OSError as error:
        return error.errno not in NOBODY_THERE
    return True
