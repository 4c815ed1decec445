"""Tokens for tests, clusters that ask for them, and proven requests as raw datagrams."""

import time
from collections.abc import Mapping
from typing import Any

from kdht.wire import Message, Record, hash_key
from kdht.wire._shared import Flag, Op
from kdht.wire.keys import derive_access
from kdht.wire.rights import (
    ALL_RIGHTS,
    Grant,
    Right,
    Token,
    holder_of,
    make_token,
    prove,
    scope_of,
    scoped_key,
)

SECRET = "an access secret of 24 b"
EPOCH = 0


def grant(
    rights: Right = ALL_RIGHTS, scope: str = "", holder: str = "tests", expiry: int = 0, epoch: int = EPOCH
) -> Grant:
    return Grant(rights, epoch, expiry, holder_of(holder), scope_of(scope))


def token(secret: str = SECRET, **claims: Any) -> Token:
    """For everything, unless told otherwise."""
    made = grant(**claims)
    return make_token(made, derive_access(made.epoch, secret.encode()).key)


def settings(
    writes: str = "token", reads: str = "open", **more: object
) -> Mapping[str, Mapping[str, object]]:
    """The tables of a Cluster whose nodes ask for tokens."""
    return {
        "access": {"writes": writes, "reads": reads, **more},
        "[access.key]": {"epoch": EPOCH, "secret": SECRET},
    }


def now_us() -> int:
    return int(time.time() * 1_000_000)


def body_of_put(value: bytes, ttl: int = 0) -> bytes:
    return Record(ttl=ttl, value=value).pack()


def proven(made: Token, op: Op, name: str, body: bytes, seq: int, *, request_id: int = 64) -> bytes:
    """The request of a client with this token."""
    return proven_for(made, op, name, body, seq, made.grant.scope, request_id=request_id)


def proven_for(
    made: Token, op: Op, name: str, body: bytes, seq: int, scope: int, *, request_id: int = 64
) -> bytes:
    """The request of a client that uses its token for a key in this scope."""
    inner = hash_key(name)
    key = scoped_key(inner, scope)
    proof = prove(made.key, made.grant.pack(), op, inner, key, seq, body)
    message = Message(op=op, key=key, request_id=request_id, flags=Flag.PROVEN, body=body + proof)
    return bytes(message.pack())
