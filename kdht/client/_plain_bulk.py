"""What `_bulk` does, in plain Python and a datagram at a time: the oracle of its tests."""

import socket
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from kdht.wire import OFFSET
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag

BATCH = 64
"""Answers that one call gives at most."""
MOST = 1 << 30
_REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
_ID = slice(OFFSET["request_id"], OFFSET["request_id"] + 8)
_KEY = slice(OFFSET["key"], OFFSET["key"] + shared.ID_LEN)
_HEAD = slice(0, OFFSET["op"] + 1)
_BODY_LEN = slice(OFFSET["body_len"], OFFSET["body_len"] + 2)
_COOKIE = slice(OFFSET["cookie"], OFFSET["cookie"] + 8)


class UnderWay(NamedTuple):
    """One request that was sent, or is about to be."""

    message: bytes
    tag: Any
    sent: float


class PlainBulkSocket:
    """`sock` is connected and does not block; who made it closes it. Times are steady seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.is_refused = False
        """Whether the port was found closed since `take_all`."""
        self._sock = sock
        self._flying: dict[bytes, UnderWay] = {}
        self._staged: list[bytes] = []

    def __len__(self) -> int:
        return len(self._flying)

    @property
    def oldest(self) -> float:
        """When the oldest request under way was sent; infinity without one."""
        return next((each.sent for each in self._flying.values()), inf)

    def stage(self, message: bytes, tag: Any, now: float) -> None:
        """Send this request with the next `flush`. `tag` comes back with its answer."""
        self._flying[message[_ID]] = UnderWay(message, tag, now)
        self._staged.append(message[_ID])

    def flush(self) -> None:
        """Send what is staged. What finds no room in the socket's buffer stays staged."""
        while self._staged:
            message = self._flying[self._staged[0]].message
            try:
                self._sock.send(message)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self.is_refused = True
                with suppress(OSError):
                    self._sock.send(message)
            except OSError:
                pass  # as if the network had lost it
            del self._staged[0]

    def receive(self) -> list[tuple[Any, int, bytes, int, float]]:
        """The answers that wait in the socket, at most BATCH of them: (tag, status, body, cookie, when it was sent).

        Untrusted: what has not the request ID, op and key of a request under way is dropped.
        """
        answers: list[tuple[Any, int, bytes, int, float]] = []
        for _ in range(BATCH):
            try:
                data = self._sock.recv(shared.MAX_DATAGRAM + 1)
            except ConnectionRefusedError:
                self.is_refused = True
                break
            except OSError:
                break
            asked = self._flying.get(data[_ID])
            if asked is not None and _answers(data, asked.message):
                del self._flying[data[_ID]]
                cookie = int.from_bytes(data[_COOKIE], "big")
                body = data[shared.HEADER_LEN :]
                answers.append((asked.tag, data[OFFSET["status"]], body, cookie, asked.sent))
        return answers

    def take_late(self, before: float, most: int = MOST) -> list[Any]:
        """Forget the oldest requests that were sent before then, at most so many; their tags."""
        late = [number for number, each in self._flying.items() if each.sent < before]
        return self._forget(late[:most])

    def take_all(self) -> list[Any]:
        """Forget all requests under way, and that the port was closed; their tags."""
        self.is_refused = False
        return self._forget(list(self._flying))

    def _forget(self, numbers: list[bytes]) -> list[Any]:
        tags = [self._flying.pop(number).tag for number in numbers]
        self._staged = [number for number in self._staged if number in self._flying]
        return tags


def _answers(data: bytes, message: bytes) -> bool:
    return (
        len(data) == shared.HEADER_LEN + int.from_bytes(data[_BODY_LEN], "big")
        and data[_HEAD] == message[_HEAD]
        and data[OFFSET["flags"]] == _REPLY_FLAGS
        and data[_KEY] == message[_KEY]
    )
