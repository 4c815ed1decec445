"""A client's requests and a node's replies, from hashlib and struct alone: what client_vectors.py is made of."""

import base64
import struct
from hashlib import blake2b
from typing import Any

CLOCK = 1_800_000_000_000_000
NUMBER = 0x123456789ABCDE
COOKIE = 0x61BEB7207AF57838
GET, PUT, DELETE, QUORUM_GET, ANNOUNCE, WITHDRAW, MEMBERS = 1, 2, 3, 5, 7, 8, 9
OK, NOT_FOUND, NOT_RESPONSIBLE, COOKIE_NEEDED, TOO_LARGE, STORAGE_FAILED, BUSY = 0, 1, 2, 3, 4, 6, 7
CONFLICT, UNCONFIRMED, UNREACHABLE, DENIED, BAD_VERSION, TOO_FEW = 9, 10, 11, 12, 13, 14
PROVEN = 8
TOKEN = "kdht1.BwBxP7MAAQIDBAUGBwjMNT2FDwroK9xEdhL0UjA9eByr3ZCWwho"  # tokens.json: read, write, delete; scope "billing"
PATIENT = 3000
"""Milliseconds until a retry, where none is to come."""
SOON = 200


def blake(data: bytes, size: int, **how: Any) -> bytes:
    return blake2b(data, digest_size=size, **how).digest()


def scope_of(name: bytes) -> bytes:
    return blake(name, 8, person=b"kdht-scope")


class Request:
    """One request of a case: its datagrams, and the replies to them."""

    def __init__(
        self,
        place: int,
        op: int,
        name: bytes,
        body: bytes = b"",
        *,
        max_reply: int = 0,
        cookie: int = 0,
        token: str = "",
        scope: bytes = b"",
    ) -> None:
        self.number, self.op, self.body = NUMBER + place, op, body
        self.max_reply, self.cookie = max_reply, cookie
        self.inner = blake(name, 20)
        self.token = base64.urlsafe_b64decode(token[6:] + "=") if token else b""
        scope = self.token[14:22] if token else scope
        self.key = blake(self.inner + scope, 20, person=b"kdht-scoped") if scope else self.inner

    def head(
        self, index: int, attempt: int, flags: int, status: int, length: int, reply_room: int, cookie: int
    ) -> bytes:
        id = self.number << 6 | index
        return struct.pack(
            ">4s4BQ20s2BH42xH4xQ16x",
            b"KDHT", 1, self.op, flags, 0, id, self.key, attempt, status, length, reply_room, cookie,
        )  # fmt: skip

    def sent(
        self,
        index: int = 0,
        attempt: int = 0,
        *,
        cookie: int | None = None,
        body: bytes | None = None,
        seq: int = CLOCK,
    ) -> str:
        """Datagram number `index`. `seq`: of its proof, if the client has a token."""
        body = self.body if body is None else body
        flags = 0
        if self.token:
            flags = PROVEN
            claims = b"\1" + self.token[:2] + b"\0" + self.token[2:22] + self.inner + struct.pack(">Q", seq)
            request = bytes([self.op]) + self.key + body + claims
            body += claims + blake(request, 12, key=self.token[22:], person=b"kdht-proof")
        shown = self.cookie if cookie is None else cookie
        return (self.head(index, attempt, flags, 0, len(body), self.max_reply, shown) + body).hex()

    def reply(
        self, status: int = OK, body: bytes = b"", index: int = 0, attempt: int = 0, cookie: int = 0
    ) -> str:
        """To datagram number `index`."""
        return (self.head(index, attempt, 3, status, len(body), 0, cookie) + body).hex()


def record(version: int, ttl: int = 0, value: bytes = b"", *, condition: int | None = None) -> bytes:
    if condition is None:
        return struct.pack(">QII", version, ttl, 0) + value
    return struct.pack(">QIIQ", version, ttl, 1, condition) + value


def announcement(version: int, ttl: int, name: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">QII", version, ttl, 0) + name + payload


def question(cursor: int, flags: int = 0) -> bytes:
    return struct.pack(">QI", cursor, flags)


def page(total: int, following: int, *members: tuple[int, int, bytes]) -> bytes:
    parts = [struct.pack(">IIQ", total, 0, following)]
    parts += [struct.pack(">QIH", id, ttl, len(payload)) + payload for id, ttl, payload in members]
    return b"".join(parts)


def step(command: str, reply: str, *datagrams: tuple[str, ...]) -> dict[str, Any]:
    """`datagrams`: the request, and the replies that it makes the node send."""
    sent = [{"request": request, "replies": replies} for request, *replies in datagrams]
    return {"command": command, "datagrams": sent, "reply": reply}


def case(
    name: str, *steps: dict[str, Any], nodes: int = 1, retry_ms: int = PATIENT, **options: str | int
) -> dict[str, Any]:
    return {"name": name, "nodes": nodes, "open": {"retry_ms": retry_ms, **options}, "steps": steps}


def hexed(text: bytes) -> str:
    return text.hex()


HELLO = hexed(b"hello")
WORLD = hexed(b"world")
