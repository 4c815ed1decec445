"""The blocking client: one request at a time, on sockets of its own."""

import random
import selectors
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kdht import _shared as shared
from kdht.client import _calls as calls
from kdht.client import _sockets as sockets
from kdht.client._calls import Answer, Call, Hop, Key
from kdht.client._exchange import Exchange, Send, Session
from kdht.errors import RequestError, RequestTimeout
from kdht.wire import Buffer, Record


class Client:
    """Gets and puts values through any of `nodes` ("host:port", "[v6]:port" or a host alone).

    `timeout` is what one request may take in all, seconds, and `attempts` how often it is
    tried within it. Every method raises RequestTimeout without an answer, and RequestError
    when the cluster refuses. Not thread-safe: each thread has its own client.
    """

    def __init__(self, nodes: str | Sequence[str], *, timeout: float = 5.0, attempts: int = 8) -> None:
        """Raises ConfigError for nodes without an address, RequestError without a route to any."""
        sockets.check_limits(timeout, attempts)
        self._sockets = sockets.connect_all(sockets.resolve(sockets.node_list(nodes)))
        self._selector = selectors.DefaultSelector()
        for node, sock in enumerate(self._sockets):
            self._selector.register(sock, selectors.EVENT_READ, node)
        self._session = Session(
            len(self._sockets), timeout=timeout, attempts=attempts, rng=random.SystemRandom()
        )

    def get(self, key: Key, *, max_value: int = shared.MAX_VALUE) -> bytes:
        """The value, of at most `max_value` bytes; raises NotFound, ValueTooLarge."""
        return self.get_record(key, max_value=max_value).value

    def get_record(self, key: Key, *, max_value: int = shared.MAX_VALUE) -> Record:
        """The value with its version and what is left of its TTL; raises as `get` does."""
        return calls.record(self._answer_to(calls.get(key, max_value)))

    def put(self, key: Key, value: Buffer, ttl: int | None = None) -> int:
        """Store a value of at most 1104 bytes, for `ttl` seconds or without end; its version.

        Raises ValueTooLarge before anything is sent. A repeated try may store it twice, under
        two versions.
        """
        return calls.record(self._answer_to(calls.put(key, value, ttl))).version

    def delete(self, key: Key) -> bool:
        """Delete the value; whether there was one. A repeated try may find its own work done."""
        return self._answer_to(calls.delete(key)).status is shared.Status.OK

    def trace(self, key: Key, *, max_hops: int = shared.HOP_LIMIT) -> list[Hop]:
        """The nodes on the key's way, the entry node first; ends where one does not answer."""
        path: list[Hop] = []
        while calls.goes_on(path, max_hops):
            try:
                path.append(calls.hop(self._answer_to(calls.trace(key, len(path) + 1))))
            except RequestTimeout:
                path.append(calls.hop(None))
        return path

    def close(self) -> None:
        """Close the sockets; may be called again."""
        self._selector.close()
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer_to(self, call: Call) -> Answer:
        if not self._sockets:
            raise RequestError(f"{call}: the client is closed")
        exchange = self._session.open(call, time.monotonic())
        try:
            send: Send | None = exchange.start(time.monotonic())
            while not exchange.done:
                if send is not None and not sockets.send(self._sockets[send.node], send.data):
                    self._session.silent(send.node)
                send = self._wait(exchange)
        finally:
            self._session.close(exchange)
        return exchange.result()

    def _wait(self, exchange: Exchange) -> Send | None:
        """Until a datagram or the deadline comes: what the exchange then sends."""
        ready = self._selector.select(max(exchange.deadline - time.monotonic(), 0))
        for selected, _ in ready:
            data = sockets.receive(self._sockets[selected.data])
            if data == b"":
                self._session.silent(selected.data)
            elif data is not None:
                step = self._session.receive(selected.data, data, time.monotonic())
                if step is not None:
                    return step[1]
        now = time.monotonic()
        return exchange.timed_out(now) if now >= exchange.deadline else None
