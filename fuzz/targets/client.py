"""Replies to a client, sealed values and the text of key files: what untrusted bytes can do there.

Invariant: any datagram is an answer, a refusal or ignored, and an answer reads as a record, a hop or BadPacket. A client with a
seal believes only a value that was sealed right here, with its key, for that key and version. A text is one secret key or none.

    | choices | op | then for each reply: status | version, 8 | ttl, 4 | flags, 4 | sized value |

A choice gives the client a seal, seals the values, takes the values as whole datagrams, or takes the rest as a key's text.
"""

import random
from collections.abc import Callable, Iterator

from fuzz.targets.events import Reader
from kdht.client import _calls as calls
from kdht.client._exchange import Exchange
from kdht.client._keyfiles import SealKey, SecretKey, SigningKey
from kdht.client._seal import MAGIC, NO_SEAL, Seal
from kdht.client._session import Session
from kdht.errors import BadPacket, ConfigError, RequestError
from kdht.wire import Message, Record, parse
from kdht.wire import _shared as shared
from kdht.wire._shared import HEADER_LEN, Flag, Op, RecordFlag, Status

SEALED, RIGHT, RAW, TEXT = 1, 2, 4, 8
KEY = SealKey(bytes(range(32)))
SEAL = Seal(KEY)
NOW_US = 1_800_000_000_000_000
MAX_REPLIES = 6
CALLS: list[Callable[[], calls.Call]] = [
    lambda: calls.get("k"),
    lambda: calls.get("k", quorum=True),
    lambda: calls.put("k", b"value", None),
    lambda: calls.put("k", b"value", None, 5),
    lambda: calls.delete("k"),
    lambda: calls.trace("k", 1),
]
TYPES: list[type[SecretKey]] = [SealKey, SigningKey]


def check_text(text: str) -> None:
    for kind in TYPES:
        try:
            found = kind.parse(text)
        except ConfigError:
            continue
        assert str(kind.parse(str(found))) == str(found)


def sealed(call: calls.Call, version: int, plain: bytes) -> bytes:
    """As an honest client seals this value for this key and version."""
    message = bytearray(HEADER_LEN + shared.RECORD_LEN + len(plain) + SEAL.overhead)
    put = calls.put("k", plain, None)
    SEAL.close(message, put._replace(key=call.key, plain=plain), version)
    return bytes(message[HEADER_LEN + shared.RECORD_LEN :])


def reply(reader: Reader, choices: int, call: calls.Call, asked: bytes, made: set[bytes]) -> bytes:
    """One reply; the values that were sealed right go into `made`."""
    status, version = reader.choice(list(Status)), int.from_bytes(reader.bytes(8), "big")
    ttl, flags = int.from_bytes(reader.bytes(4), "big"), int.from_bytes(reader.bytes(4), "big")
    value = reader.sized()
    if choices & RAW:
        return value
    if choices & RIGHT:
        value = value[: shared.MAX_VALUE - SEAL.overhead]
        made.add(value)
        value = sealed(call, version, value)
    request = parse(asked)
    body = Record(version, ttl, flags, value[: shared.MAX_VALUE]).pack()
    is_reply = Flag.REPLY | Flag.FORWARDED
    return bytes(
        Message(
            op=request.op, key=request.key, request_id=request.request_id, flags=is_reply, status=status, body=body,
            cookie=version,
        ).pack()
    )  # fmt: skip


def check(exchange: Exchange, seals: bool, made: set[bytes]) -> None:
    try:
        answer = exchange.result()
        if exchange.call.op is Op.TRACE:
            calls.hop(answer)
            return
        record = calls.record(answer)
    except (RequestError, BadPacket):
        return
    is_value = exchange.call.op in (Op.GET, Op.QUORUM_GET) and not record.flags & RecordFlag.TOMBSTONE
    if seals and is_value and answer.status is Status.OK:
        assert record.value in made, "a value that nobody sealed is believed"


def one(data: bytes) -> None:
    reader = Reader(data)
    choices, call = reader.byte(), reader.choice(CALLS)()
    if choices & TEXT:
        check_text(data[2:].decode("latin-1"))
        return
    seal = SEAL if choices & SEALED else NO_SEAL
    session = Session(2, timeout=3.0, attempts=4, rng=random.Random(5348), unix_us=lambda: NOW_US, seal=seal)
    exchange, made = session.start(call, 0.0), set[bytes]()
    now = 0.0
    asked = session.outbox[-1]
    for _ in range(MAX_REPLIES):
        if exchange.done or not reader:
            break
        asked = session.outbox[-1] if session.outbox else asked
        now += 0.001
        session.receive(asked.node, reply(reader, choices, call, asked.data, made), now, direct=False)
    while not exchange.done:
        session.wake(exchange.deadline)
    check(exchange, seal is SEAL, made)


def seeds() -> Iterator[tuple[str, bytes]]:
    def said(status: Status, version: int, flags: int, value: bytes) -> bytes:
        place = list(Status).index(status)
        head = bytes([place]) + version.to_bytes(8, "big") + bytes(4) + flags.to_bytes(4, "big")
        return head + len(value).to_bytes(2, "big") + value

    for number in range(len(CALLS)):
        head = bytes([number])
        yield f"plain-{number}", b"\0" + head + said(Status.OK, 7, 0, b"value")
        yield f"sealed-{number}", bytes([SEALED | RIGHT]) + head + said(Status.OK, 7, 0, b"value")
        yield f"open-{number}", bytes([SEALED]) + head + said(Status.OK, 7, 0, MAGIC + bytes(60))
        twice = (
            said(Status.COOKIE_NEEDED, 9, 0, b"") + said(Status.BUSY, 0, 0, b"") + said(Status.OK, 7, 2, b"")
        )
        yield f"refused-{number}", b"\0" + head + twice
    yield "raw", bytes([RAW, 0]) + said(Status.OK, 0, 0, b"KDHT" + bytes(100))
    yield "text", bytes([TEXT, 0]) + str(KEY).encode()
    yield "text-sign", bytes([TEXT, 0]) + str(SigningKey(bytes(32))).encode()
