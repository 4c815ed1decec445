"""Listening sockets and their connections: how many there may be, in all and of one client.

When all places are taken, the connection gives way that has waited longest for its next request. If none waits, the newcomer is
turned away. A TLS handshake takes a place, too, and has a time.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable

from kdht.config.values import FaceEndpoint
from kdht.faces.http.connection import Connection, Handle
from kdht.faces.rates import client_of
from kdht.faces.udp import NOT_ALLOWED, cannot_listen
from kdht.wire.addresses import Address

log = logging.getLogger(__name__)

# As for a head: a slow one holds a place.
HANDSHAKE_SECONDS = 10.0
# Connections that wait while the event loop is busy; a burst of new clients is not refused.
BACKLOG = 1024
STREAM_LIMIT = 64 << 10
STOP_SECONDS = 2.0
"""That requests under way have to end."""
RETRY_SECONDS = 0.2
"""After an accept that failed, for want of descriptors, say."""


class HttpServer:
    """Serves on `at` from `start` to `stop`, at most `most` connections at once and `most_of_one` of a client.

    `serves` says whether the client at 16 bytes of address is served at all.
    """

    def __init__(
        self,
        at: Iterable[FaceEndpoint],
        handle: Handle,
        serves: Callable[[bytes], bool],
        counts: Counter[str],
        *,
        most: int,
        most_of_one: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._at = list(at)
        self._handle = handle
        self._serves = serves
        self._counts = counts
        self._most, self._most_of_one = most, most_of_one
        self._tls = tls
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        """By age. None: not yet made, because TLS shakes hands."""
        self._of_client = Counter[bytes]()

    async def start(self) -> None:
        """Bind and listen. Raises ConfigError."""
        for at in self._at:
            self._listeners.append(_bound(at))
        self._accepting = [asyncio.create_task(self._accept(each)) for each in self._listeners]

    async def stop(self) -> None:
        """Take no more connections, end the idle ones, and the others after STOP_SECONDS. May be called again."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._accepting, self._listeners = [], []
        # An idle connection has no request that could be lost. The others get time for their answers.
        for task, connection in list(self._connections.items()):
            if connection is None or connection.is_idle:
                task.cancel()
            else:
                connection.end()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                self._counts["unaccepted"] += 1
                log.warning("a connection cannot be accepted", extra={"error": error})
                # The connection still waits, so without a pause the loop would try again at once, and for ever.
                await asyncio.sleep(RETRY_SECONDS)
                continue
            # A link-local address has its interface behind a "%".
            ip = Address.of(address[0].partition("%")[0], address[1]).ip
            if not self._has_place(ip):
                sock.close()
                continue
            task = asyncio.create_task(self._serve(sock, ip))
            self._connections[task] = None
            self._of_client[client_of(ip)] += 1

    def _has_place(self, ip: bytes) -> bool:
        if not self._serves(ip):
            self._counts[NOT_ALLOWED] += 1
            return False
        if self._of_client[client_of(ip)] >= self._most_of_one:
            self._counts["too_many_of_client"] += 1
            return False
        if len(self._connections) < self._most:
            return True
        idle = (task for task, each in self._connections.items() if each is not None and each.is_idle)
        if (oldest := next(idle, None)) is not None:
            self._counts["gave_way"] += 1
            oldest.cancel()
            return True
        self._counts["too_many"] += 1
        return False

    async def _serve(self, sock: socket.socket, ip: bytes) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = await self._connected(sock, ip)
            self._connections[task] = connection
            self._counts["connections"] += 1
            await connection.serve()
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self._counts["bad_handshake" if self._tls else "broken_off"] += 1
        finally:
            sock.close()
            del self._connections[task]
            client = client_of(ip)
            self._of_client[client] -= 1
            # Else the counter would remember every address that ever came.
            if not self._of_client[client]:
                del self._of_client[client]

    async def _connected(self, sock: socket.socket, ip: bytes) -> Connection:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(STREAM_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return Connection(reader, writer, ip, self._handle, self._counts)


def _bound(at: FaceEndpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    try:
        sock = socket.create_server((at.host, at.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise cannot_listen("http.listen", at, error) from error
    sock.setblocking(False)
    return sock
