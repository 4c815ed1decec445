"""The nodes that the user names, and one connected UDP socket for each of their addresses.

A connected socket takes datagrams from its address only, and reports closed ports. Direct answers come to one more
socket for each IP version, which is not connected. A learnt node gets its socket when it is first asked.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeAlias

from kdht.client._datagram import ANY_NODE, Send
from kdht.errors import ConfigError, RequestError
from kdht.wire import Address, split_port
from kdht.wire import _shared as shared

Info: TypeAlias = tuple[Any, ...]
"""One row of getaddrinfo."""

# One fast node must not starve the answers of the others.
BURST = 64
"""Datagrams read from one socket before the others get their turn."""
MAX_BURSTS = 256
"""Read from one socket before deadlines pass: more than its buffer holds."""
NOBODY_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""A closed port, or no route to the host."""
# A window of 64 large answers, times some bursts, arrives while Python is busy elsewhere. The default of 208
# KiB loses datagrams then.
RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes. The kernel grants what net.core.rmem_max allows."""


def node_list(nodes: str | Sequence[str]) -> list[tuple[str, int]]:
    """Hosts and ports. Raises ConfigError for an empty list, or for text that names no node."""
    texts = [nodes] if isinstance(nodes, str) else list(nodes)
    if not texts:
        raise ConfigError('no nodes to ask: name at least one as "host:port"')
    try:
        return [split_port(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f'a node is "host:port", "[v6]:port" or a host alone: {error} in {texts}') from None


def unresolved(host: str, error: OSError) -> ConfigError:
    """The exception for a name that getaddrinfo cannot resolve."""
    return ConfigError(f"the node {host!r} has no address: {error.strerror or error}")


def resolve(nodes: Iterable[tuple[str, int]]) -> list[Info]:
    """All addresses of all nodes, in order. Blocks while names are looked up. Raises ConfigError."""
    infos: list[Info] = []
    for host, port in nodes:
        try:
            infos += socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise unresolved(host, error) from None
    return infos


class Sockets:
    """All sockets of a client; with `direct` also those that are not connected.

    `on_open` is called with every new socket and its node, or ANY_NODE: at the start, and when a learnt node is first
    asked. `on_close` is called when a learnt node's index goes to another node. Raises RequestError if this host has no
    route to any of the addresses.
    """

    def __init__(
        self,
        infos: Iterable[Info],
        *,
        direct: bool,
        on_open: Callable[[int, socket.socket], None],
        on_close: Callable[[socket.socket], object],
    ) -> None:
        given = _connect_all(infos)
        self._on_open, self._on_close = on_open, on_close
        self._connected = dict(enumerate(given))
        # Closing it at once would turn late answers into ICMP errors at the node, and lose a watch's news.
        self._former: dict[int, socket.socket] = {}
        """Those of earlier source ports: late answers, and a watch's news, come there."""
        self._ports: dict[int, int] = {}
        """How often each node's source port was changed."""
        self._targets: dict[int, Info] = {node: sock.getpeername() for node, sock in self._connected.items()}
        self._nodes = {target: node for node, target in self._targets.items()}
        self._families = {sock.family for sock in given}
        self._open = {family: _udp_socket(family) for family in self._families} if direct else {}
        self._count = len(given)
        for node, sock in self:
            on_open(node, sock)

    def __bool__(self) -> bool:
        return bool(self._connected)

    def __len__(self) -> int:
        """How many addresses the given nodes have."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, socket.socket]]:
        """Each socket with its node, or ANY_NODE."""
        yield from [*self._connected.items(), *self._former.items()]
        for sock in self._open.values():
            yield ANY_NODE, sock

    def node_name(self, node: int) -> str:
        """Host and port."""
        host, port = self._targets[node][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def place(self, node: int, address: Address) -> bool:
        """Give this index to a learnt node. False if it was given anyway, or cannot be reached as the given ones are."""
        family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
        target: Info = (address.host, address.port) if address.is_ipv4 else (address.host, address.port, 0, 0)
        hosts = [ip_address(each[0].partition("%")[0]) for each in self._targets.values()]
        is_elsewhere = ip_address(address.host).is_loopback and not any(host.is_loopback for host in hosts)
        # A learnt address may be good inside of the cluster only, such as 127.0.0.1 of another host.
        if family not in self._families or target in self._nodes or is_elsewhere:
            return False
        self._nodes.pop(self._targets.get(node, ()), None)
        self._targets[node], self._nodes[target] = target, node
        self._ports.pop(node, None)
        for sockets in (self._connected, self._former):
            self._drop(sockets.pop(node, None))
        return True

    def _drop(self, sock: socket.socket | None) -> None:
        if sock is not None:
            self._on_close(sock)
            sock.close()

    def send(self, item: Send) -> bool:
        """Send a datagram, as the function `send` does. No-op after `close`."""
        if not self._connected:
            return True
        if item.direct:
            target = self._targets[item.node]
            family = socket.AF_INET if len(target) == 2 else socket.AF_INET6
            return send(self._open[family], item.data, target)
        if item.port > self._ports.get(item.node, 0):
            self._change_port(item.node, item.port)
        sock = self._connected.get(item.node) or self._connect(item.node)
        return sock is not None and send(sock, item.data)

    def _connect(self, node: int) -> socket.socket | None:
        """Open the socket of a learnt node; None if this host has no route to it, or no descriptor left."""
        sock = self._new(node)
        if sock is not None:
            self._connected[node] = sock
            self._on_open(node, sock)
        return sock

    def _new(self, node: int) -> socket.socket | None:
        target = self._targets[node]
        try:
            return _connected(socket.AF_INET if len(target) == 2 else socket.AF_INET6, target)
        except OSError:
            return None

    def open_bulk(self, node: int) -> socket.socket | None:
        """One more socket to a node, for whoever asks; None if this host has no route to it or no descriptor left, or after `close`."""
        return self._new(node) if self._connected else None

    def _change_port(self, node: int, port: int) -> None:
        """Send from another port from now on. The former one still receives, until the next change."""
        self._ports[node] = port
        before = self._connected.pop(node, None)
        if before is None:
            return
        if self._connect(node) is None:  # no route now: the old one is as good
            self._connected[node] = before
            return
        self._drop(self._former.pop(node, None))
        self._former[node] = before

    def arrived(self, node: int, sock: socket.socket) -> Iterator[tuple[int, bytes | None]]:
        """Read up to BURST datagrams that wait in the socket of `node`: each with its sender; None for a closed port.

        In a socket that is not connected, the sender is ANY_NODE if it is none of the known nodes.
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
        self._connected, self._former, self._open = {}, {}, {}


def unix_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def check_process(pid: int) -> None:
    """Raises RequestError unless this process made the client: two would take each other's answers."""
    # After a fork both processes would read the same sockets.
    if os.getpid() != pid:
        raise RequestError(
            f"this client belongs to process {pid}, this is process {os.getpid()}: make a new client after a fork"
        )


def _udp_socket(family: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    # The client waits in one place only, for all sockets.
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def _connected(family: int, address: Any, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
    """Raises OSError: no route, or no descriptor left."""
    sock = _udp_socket(family, kind, protocol)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _connect_all(infos: Iterable[Info]) -> list[socket.socket]:
    """A non-blocking socket for each address that this host has a route to."""
    sockets: list[socket.socket] = []
    why = OSError(errno.EADDRNOTAVAIL, "no address")
    # Two names may lead to one address: asked once, it cannot take the other's answers.
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        try:
            sockets.append(_connected(family, address, kind, protocol))
        except OSError as error:
            why = error
    if not sockets:
        raise RequestError(f"no node can be reached from this host: {why.strerror}")
    return sockets


def send(sock: socket.socket, data: bytes, target: Info | None = None) -> bool:
    """Send one datagram, to `target` if the socket is not connected. False if the port is closed or there is no route.

    If this host has no room for it, or a filter of its own drops it (EPERM), it counts as lost in the network.
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
        # A full buffer or a filter of this host: a retry helps, as after a loss in the network.
        return error.errno not in NOBODY_THERE
    return True
