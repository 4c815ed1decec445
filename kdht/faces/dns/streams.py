"""Queries by TCP: several on a connection, answered in their order (RFC 7766). One event loop.

Bounded: connections in all and of each client, the time until a whole query is there or an answer is taken, and a query's bytes.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from kdht.config.values import FaceEndpoint
from kdht.faces.dns.messages import MAX_QUERY
from kdht.faces.dns.service import DnsService
from kdht.faces.rates import client_of
from kdht.faces.udp import NOT_ALLOWED, cannot_listen
from kdht.wire.addresses import Address

# Each has a file descriptor and a task. TCP is for the few answers that do not fit a datagram.
MAX_CONNECTIONS = 256
# A resolver opens a few. One client must not take all places.
MAX_OF_CLIENT = 16
# RFC 7766, section 6.2.3 leaves it to the server: some seconds, so that silent clients do not hold places.
IDLE_S = 10.0
_LENGTH = struct.Struct(">H")


class StreamServer:
    """At one address. Connections of clients that it does not serve are closed at once."""

    def __init__(
        self,
        at: FaceEndpoint,
        service: DnsService,
        serves: Callable[[bytes], bool],
        count: Callable[[str], None],
    ) -> None:
        self._at = at
        self._service = service
        self._serves = serves
        self._count = count
        self._server: asyncio.Server | None = None
        self._clients: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises ConfigError."""
        try:
            self._server = await asyncio.start_server(
                self._accepted, self._at.host, self._at.port, limit=MAX_QUERY
            )
        except OSError as error:
            raise cannot_listen("dns.listen", self._at, error) from error

    async def stop(self) -> None:
        """May be called without a start."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        asker = Address.of(host.partition("%")[0], port)
        if not self._serves(asker.ip):
            self._count(NOT_ALLOWED)
            writer.transport.abort()
            return
        client = client_of(asker.ip)
        if self._clients.total() >= MAX_CONNECTIONS or self._clients[client] >= MAX_OF_CLIENT:
            self._count("connections_refused")
            writer.transport.abort()
            return
        self._count("connections")
        self._clients[client] += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer, asker)
        finally:
            self._tasks.discard(task)
            self._clients[client] -= 1
            # Else the table would keep every client for ever.
            self._clients += Counter()
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asker: Address
    ) -> None:
        # The client has gone, or holds its place without a word.
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(IDLE_S):
                    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                    if length > MAX_QUERY:
                        self._count("dropped_too_long")
                        return
                    data = await reader.readexactly(length)
                self._count("tcp")
                answer = self._service.at_once(data, asker, stream=True)
                if answer is None:
                    return
                if not isinstance(answer, bytes):
                    answer = await self._service.later(answer)
                writer.write(_LENGTH.pack(len(answer)) + answer)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
