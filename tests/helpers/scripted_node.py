"""A node on loopback that does what a test tells it: real sockets, no cluster behind them."""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Self

from kdht import wire
from kdht.wire import Message, Record
from kdht.wire._shared import Flag, Status

Reaction = Callable[["ScriptedNode", Message], Iterable[bytes]]
"""From a request to the datagrams that go back."""

VERSION = 7


def reply_to(request: Message, *, body: bytes = b"", **changes: object) -> bytes:
    """What a client takes for the answer to `request`, or with `changes` does not."""
    fields: dict[str, object] = {
        "op": request.op,
        "key": request.key,
        "request_id": request.request_id,
        "flags": Flag.REPLY | Flag.FORWARDED,
        "attempt": request.attempt,
        "hops": 12,
        "body": body,
    }
    return bytes(Message(**{**fields, **changes}).pack())


def value_reply(request: Message, value: bytes = b"world", **changes: object) -> bytes:
    return reply_to(request, body=Record(VERSION, 0, 0, value).pack(), **changes)


def refusal(request: Message, status: Status, **changes: object) -> bytes:
    return reply_to(request, status=status, **changes)


class ScriptedNode:
    """Answers each request with the next of `reactions`, and with the last of them from then on."""

    def __init__(self, *reactions: Reaction, host: str = "127.0.0.1") -> None:
        self.seen: list[Message] = []
        self._reactions = reactions
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def name(self) -> str:
        """As a client takes it."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as ender:
            ender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(65536)
            if not data:
                return
            self.client = client
            request = wire.parse(data)
            reaction = self._reactions[min(len(self.seen), len(self._reactions) - 1)]
            self.seen.append(request)
            for datagram in reaction(self, request):
                self._socket.sendto(datagram, client)

    def send_from_elsewhere(self, data: bytes) -> None:
        """To the last client, from another port of this host."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as other:
            other.bind((self._socket.getsockname()[0], 0))
            other.sendto(data, self.client)


def drop(_node: ScriptedNode, _request: Message) -> list[bytes]:
    return []


def answer(_node: ScriptedNode, request: Message) -> list[bytes]:
    return [value_reply(request)]


def refuse(status: Status, **changes: object) -> Reaction:
    return lambda _node, request: [refusal(request, status, **changes)]
