"""Tokens and proofs: what untrusted text and bytes can do there.

Invariant: a text is a token, whose text it is, or BadToken. A request is proven only if its proof was made right here, with a
token that has the right; else there is one of the known reasons, never an exception.

    | choices | op | rights | expiry, 4 | holder | scope | body ... |

A choice makes the proof right, changes a byte behind it, gives no flag, or takes the body as a token's text.
"""

from collections.abc import Iterator

from fuzz.targets.events import Reader
from kdht.errors import BadPacket, BadToken
from kdht.node.access import REASONS, Access, AccessPolicy, body_of
from kdht.times import UnixTime
from kdht.wire import Message, hash_key
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Right
from kdht.wire.keys import derive_access
from kdht.wire.rights import (
    ALL_RIGHTS,
    NEEDED,
    PROOF,
    Grant,
    Token,
    make_token,
    open_token,
    prove,
    scoped_key,
)

PROVE, CHANGE, PLAIN, TEXT = 1, 2, 4, 8
NOW = UnixTime(1_800_000_000.0)
SEQ = int(NOW * 1_000_000)
ACCESS_KEY = derive_access(0, b"the access secret of the fuzzer")
REVOKED = 7
POLICY = AccessPolicy(
    "token", "token", (ACCESS_KEY,), frozenset({open_token("open").grant.scope}), frozenset({REVOKED})
)
OPS = tuple(NEEDED)
INNER = hash_key("name")


def check_text(text: str) -> None:
    try:
        found = Token.parse(text)
    except BadToken:
        return
    assert found.text == text.strip()


def wanted(grant: Grant, op: Op) -> str:
    """The reason for a request whose proof is right."""
    if 0 < grant.expiry <= NOW:
        return "expired"
    if grant.holder == REVOKED:
        return "revoked"
    return "" if grant.rights & NEEDED[op] else "right"


def one(data: bytes) -> None:
    reader = Reader(data)
    choices, op = reader.byte(), OPS[reader.byte() % len(OPS)]
    rights = Right(reader.byte() & int(ALL_RIGHTS))
    grant = Grant(rights, 0, int.from_bytes(reader.bytes(4), "big"), reader.byte(), reader.byte())
    body = reader.bytes(shared.MAX_BODY)
    if choices & TEXT:
        check_text(body.decode("latin-1"))
        return
    key, right = INNER, False
    if choices & PROVE:
        body = body[: shared.MAX_BODY - PROOF.size]
        key = scoped_key(INNER, grant.scope)
        made = make_token(grant, ACCESS_KEY.key)
        body += prove(made.key, grant.pack(), op, INNER, key, SEQ, body)
        right = grant.holder != 0
    if choices & CHANGE and body:
        at = grant.expiry % len(body)
        body, right = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], False
    flags = Flag(0) if choices & PLAIN else Flag.PROVEN
    request = bytes(Message(op=op, key=key, request_id=1, flags=flags, body=body).pack())
    reason = Access(POLICY).reason(request, NOW)
    assert reason in ("", *REASONS)
    if flags:
        assert reason == (wanted(grant, op) if right else "mac")
    else:
        assert reason == "none"
    try:
        found, seq = body_of(request)
    except BadPacket:
        assert flags
        assert len(body) < PROOF.size
    else:
        assert len(found) == len(body) - (PROOF.size if flags else 0)
        assert (seq is None) == (not flags)


def seeds() -> Iterator[tuple[str, bytes]]:
    for number, op in enumerate(OPS):
        head = bytes([number, int(ALL_RIGHTS)]) + bytes(4) + b"\x05"
        yield f"proven-{op.name}", bytes([PROVE]) + head + b"\0body"
        yield f"scoped-{op.name}", bytes([PROVE]) + head + b"\x09body"
        yield f"changed-{op.name}", bytes([PROVE | CHANGE]) + head + b"\0body"
    yield "plain", bytes([PLAIN, 0, 1]) + bytes(6) + b"body"
    yield "short", bytes([0, 0, 1]) + bytes(6) + b"body"
    yield "revoked", bytes([PROVE, 0, 1]) + bytes(4) + bytes([REVOKED, 0]) + b"body"
    yield (
        "token",
        bytes([TEXT, 0, 1])
        + bytes(6)
        + make_token(Grant(Right.READ, 0, 0, 5, 0), ACCESS_KEY.key).text.encode(),
    )
