"""Messages as bytes and bytes as messages: the wire format, and nothing that moves it.

Layer 0. What takes untrusted bytes (`parse`, `verify`, `Record.parse`, `parse_contacts`)
ends in a value or in BadPacket, in nothing else. Layouts come from include/kdht_shared.h
through kdht._shared; docs/protocol.md has the fields' meaning. Integers are big-endian.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeAlias

from kdht import _shared as shared
from kdht._shared import Flag, Op, RecordFlag, Status, siphash
from kdht.errors import BadPacket
from kdht.keys import ClusterKey

Buffer: TypeAlias = bytes | bytearray | memoryview

NO_IP = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"


class Address(NamedTuple):
    """A UDP endpoint: 16 bytes of IPv6 or IPv4-mapped address, and a port."""

    ip: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """From a numeric host; raises ValueError for anything else."""
        address = ip_address(host)
        packed = _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed
        return cls(packed, port)

    @property
    def is_ipv4(self) -> bool:
        return self.ip[:12] == _MAPPED

    @property
    def host(self) -> str:
        """The address as text, IPv4 in its own form."""
        return str(IPv4Address(self.ip[12:]) if self.is_ipv4 else IPv6Address(self.ip))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.is_ipv4 else f"[{self.host}]:{self.port}"


NOWHERE = Address(NO_IP, 0)


def split_port(text: str, default: int = shared.PORT) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]:port" or a bare IPv6 address.

    Raises ValueError when the port is no number from 1 to 65535 or the host is missing.
    """
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        if text.endswith("]"):
            host, colon, port = text, "", ""
        if not host.endswith("]"):
            raise ValueError("a bracket is not closed")
        host = host[1:-1]
    elif not colon or ":" in host:
        host, colon, port = text, "", ""
    if not host:
        raise ValueError("the host is missing")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"the port is a number from 1 to 65535, not {port!r}")
    return host, int(port) if colon else default


class Contact(NamedTuple):
    """A node that others may route to: 20 bytes of ID, and where it listens."""

    id: bytes
    ip: bytes
    port: int

    @property
    def address(self) -> Address:
        return Address(self.ip, self.port)


# --- The header ----------------------------------------------------------------------
#
#      0       1       2       3       4       5       6       7
#  0 | magic "KDHT"                  | ver   | op    | flags | hops  |
#  8 | request id                                                    |
# 16 | key, 20 bytes                                                 |
# 24 |                                                               |
# 32 |                               |attempt| status| body length   |
# 40 | time                          | epoch | 0     | client port   |
# 48 | client address, IPv6 or IPv4-mapped                           |
# 56 |                                                               |
# 64 | entry address                                                 |
# 72 |                                                               |
# 80 | entry port    | max reply     | 0                             |
# 88 | cookie                                                        |
# 96 | body tag                                                      |
# 104| header tag: SipHash-2-4 of all before it, hops taken as 0     |
# 112| body

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q", 16: "16s", shared.ID_LEN: f"{shared.ID_LEN}s"}
HEADER = struct.Struct(">" + "".join(_CODES[size] for _, _, size in shared.LAYOUT))
OFFSET = {name: offset for name, offset, _ in shared.LAYOUT}
FIELD = {name: slice(offset, offset + size) for name, offset, size in shared.LAYOUT}

NO_FLAGS = Flag(0)
_UNKNOWN_FLAGS = 0xFF ^ shared.KNOWN_FLAGS
# To look a member up costs a tenth of its making, and every control message has three.
_OPS = {int(op): op for op in Op}
_STATUSES = {int(status): status for status in Status}
_FLAGS = {flags: Flag(flags) for flags in range(256) if not flags & _UNKNOWN_FLAGS}
_REPLY = int(Flag.REPLY)
_DIRECT = int(Flag.DIRECT)
_IF_VERSION = int(RecordFlag.IF_VERSION)
_DECIDED = int(RecordFlag.DECIDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One datagram. Fields that a client leaves to the entry node default to zero."""

    op: Op
    key: bytes
    """20 bytes: a hashed key, or the ID that a control message asks for."""
    request_id: int
    flags: Flag = NO_FLAGS
    hops: int = 0
    attempt: int = 0
    status: Status = Status.OK
    body: bytes = b""
    time: int = 0
    epoch: int = 0
    client: Address = NOWHERE
    entry: Address = NOWHERE
    max_reply: int = 0
    cookie: int = 0
    body_tag: int = 0
    header_tag: int = 0

    @property
    def is_reply(self) -> bool:
        """Whether REPLY is among the flags."""
        return int(self.flags) & _REPLY != 0

    def pack(self) -> bytearray:
        """The datagram, 112 bytes and the body.

        Raises ValueError for a body, key or number that its field cannot hold.
        """
        if len(self.key) != shared.ID_LEN:
            raise ValueError(f"a key has {shared.ID_LEN} bytes, not {len(self.key)}")
        if len(self.body) > shared.MAX_BODY:
            raise ValueError(f"a body has at most {shared.MAX_BODY} bytes, not {len(self.body)}")
        try:
            header = HEADER.pack(
                shared.MAGIC,
                shared.VERSION,
                self.op,
                self.flags,
                self.hops,
                self.request_id,
                self.key,
                self.attempt,
                self.status,
                len(self.body),
                self.time,
                self.epoch,
                0,
                self.client.port,
                self.client.ip,
                self.entry.ip,
                self.entry.port,
                self.max_reply,
                0,
                self.cookie,
                self.body_tag,
                self.header_tag,
            )
        except struct.error as error:
            raise ValueError(f"a field does not fit: {error}") from None
        return bytearray(header + self.body)


def pack_request(
    op: int, key: bytes, request_id: int, body: bytes = b"", *, hops: int = 0, max_reply: int = 0
) -> bytearray:
    """A client's request, as Message.pack gives it, without the Message: for those who make many."""
    fields = (op, 0, hops, request_id, key, 0, 0, len(body), 0, 0, 0, 0, NO_IP, NO_IP, 0, max_reply)
    return bytearray(HEADER.pack(shared.MAGIC, shared.VERSION, *fields, 0, 0, 0, 0) + body)


def check_form(data: Buffer) -> None:
    """Whether untrusted bytes have a message's form; raises BadPacket if not.

    The order of the checks is the routing core's, so that both give the same reason.
    """
    length = len(data)
    if length < OFFSET["version"]:
        raise BadPacket("TRUNCATED", f"{length} bytes")
    if int.from_bytes(data[: OFFSET["version"]], "big") != shared.MAGIC:
        raise BadPacket("BAD_MAGIC")
    if length < shared.HEADER_LEN:
        raise BadPacket("TRUNCATED", f"{length} bytes")
    if data[OFFSET["version"]] != shared.VERSION:
        raise BadPacket("BAD_VERSION", str(data[OFFSET["version"]]))
    at = OFFSET["body_len"]
    body_len = data[at] << 8 | data[at + 1]
    if max(length - shared.HEADER_LEN, body_len) > shared.MAX_BODY:
        raise BadPacket("TOO_LONG", f"{length} bytes")
    if shared.HEADER_LEN + body_len != length:
        raise BadPacket("BAD_LENGTH", f"body length {body_len} in {length} bytes")
    flags = data[OFFSET["flags"]]
    if flags & _UNKNOWN_FLAGS or (
        flags & _DIRECT and (flags & _REPLY or data[OFFSET["op"]] > shared.LAST_ROUTED_OP)
    ):
        raise BadPacket("BAD_FLAGS", f"{flags:#04x}")
    if data[OFFSET["op"]] not in _OPS:
        raise BadPacket("BAD_OP", f"{data[OFFSET['op']]:#04x}")


def parse(data: Buffer) -> Message:
    """The message in untrusted bytes; raises BadPacket. Tags and times are `verify`'s.

    A status that this version does not know is BAD_FLAGS; reserved fields are not looked at.
    """
    check_form(data)
    (_, _, op, flags, hops, request_id, key, attempt, status, _, time, epoch, _, client_port,
     client_ip, entry_ip, entry_port, max_reply, _, cookie, body_tag, header_tag) = HEADER.unpack_from(data)  # fmt: skip
    known_status = _STATUSES.get(status)
    if known_status is None:
        raise BadPacket("BAD_FLAGS", f"status {status}")
    return Message(
        op=_OPS[op],
        key=key,
        request_id=request_id,
        flags=_FLAGS[flags],
        hops=hops,
        attempt=attempt,
        status=known_status,
        body=bytes(data[shared.HEADER_LEN :]),
        time=time,
        epoch=epoch,
        client=Address(client_ip, client_port),
        entry=Address(entry_ip, entry_port),
        max_reply=max_reply,
        cookie=cookie,
        body_tag=body_tag,
        header_tag=header_tag,
    )


# --- Tags and cookies: SipHash-2-4 (Aumasson and Bernstein, 2012) ----------------------

_EPOCH = OFFSET["epoch"]
_TIME = struct.Struct(">I")
_TAG = struct.Struct(">Q")


def header_tag(message: Buffer, key: ClusterKey) -> int:
    """The tag of a packed message's header; `hops` changes on the way, so it counts as 0."""
    tagged = bytearray(message[: shared.TAGGED_LEN])
    tagged[OFFSET["hops"]] = 0
    return siphash(key.tag, bytes(tagged))


def body_tag(message: Buffer, key: ClusterKey) -> int:
    """The tag of a packed message's body."""
    return siphash(key.tag, bytes(message[shared.HEADER_LEN :]))


def seal(message: bytearray, key: ClusterKey, now: int) -> None:
    """Make a packed message a member's, in place: FORWARDED, time, epoch and both tags.

    `now` is unix seconds; `key` the epoch that signs.
    """
    message[OFFSET["flags"]] |= Flag.FORWARDED
    message[_EPOCH] = key.epoch
    _TIME.pack_into(message, OFFSET["time"], now & 0xFFFFFFFF)
    _TAG.pack_into(message, OFFSET["body_tag"], body_tag(message, key))
    _TAG.pack_into(message, OFFSET["header_tag"], header_tag(message, key))


def verify(data: Buffer, keys: Sequence[ClusterKey], now: int, window: int = shared.REPLAY_WINDOW) -> None:
    """Check a member's message as the core does: form, epoch, tags, time, hops.

    `now` and `window` are seconds; the time may differ by `window` either way. Raises BadPacket.
    """
    check_form(data)
    if not data[OFFSET["flags"]] & Flag.FORWARDED:
        raise BadPacket("BAD_FLAGS", "not sealed")
    key = next((key for key in keys if key.epoch == data[_EPOCH]), None)
    if key is None:
        raise BadPacket("BAD_EPOCH", str(data[_EPOCH]))
    if _TAG.unpack_from(data, OFFSET["header_tag"])[0] != header_tag(data, key):
        raise BadPacket("BAD_TAG")
    time = _TIME.unpack_from(data, OFFSET["time"])[0]
    if min((now - time) % 2**32, (time - now) % 2**32) > window:
        raise BadPacket("STALE", f"{now - time} s old")
    if data[OFFSET["hops"]] == 0:
        raise BadPacket("HOP_LIMIT")
    if _TAG.unpack_from(data, OFFSET["body_tag"])[0] != body_tag(data, key):
        raise BadPacket("BAD_BODY_TAG")


def make_cookie(cookie_key: bytes, client_ip: bytes, now: int) -> int:
    """The proof, never 0, that a client receives at `client_ip` (16 bytes), for one time slot."""
    return _cookie_of_slot(cookie_key, client_ip, now >> shared.COOKIE_SLOT_BITS)


def valid_cookie(cookie: int, cookie_key: bytes, client_ip: bytes, now: int) -> bool:
    """Whether a cookie is of this time slot or of one beside it; 0 is none."""
    slot = now >> shared.COOKIE_SLOT_BITS
    slots = range(max(slot - 1, 0), slot + 2)
    return cookie != 0 and any(cookie == _cookie_of_slot(cookie_key, client_ip, s) for s in slots)


def _cookie_of_slot(cookie_key: bytes, client_ip: bytes, slot: int) -> int:
    return siphash(cookie_key, client_ip + slot.to_bytes(8, "big")) or 1


# --- Bodies ----------------------------------------------------------------------------
#
# PUT, its reply, and GET's reply:    FIND_NODE's reply, after the sender's ID; TRACE's reply:
#
#      0              4              8       0                                          20
#  0 | version                       |      | ID                                       |
#  8 | ttl          | flags          |   20 | address, IPv6 or IPv4-mapped  |    36 | port |
# 16 | value                                38 | the next contact
#
# A conditional PUT or DELETE, and a STORE that was decided by promises:    PROMISE, and its reply:
#
#      0              4              8                                     0              8
#  0 | version                       |                                 0 | version      | nonce        |
#  8 | ttl          | flags          |                                16 | 01 or nothing|
# 16 | condition, or nonce           |
# 24 | value                                                            0 | version      | ttl  | flags |

RECORD = struct.Struct(">QII")
EXTRA = struct.Struct(">Q")
"""The condition or the nonce behind a record."""
PROMISE = struct.Struct(">QQ")
GIVEN_BACK = b"\x01"
"""Behind a promise that its coordinator needs no more."""
CONTACT = struct.Struct(f">{shared.ID_LEN}s16sH")


class Record(NamedTuple):
    """A value with what is known of it; `ttl` in seconds, 0 for no end."""

    version: int = 0
    ttl: int = 0
    flags: int = 0
    value: bytes = b""

    def pack(self) -> bytes:
        """The 16 bytes of struct kdht_record and the value."""
        return RECORD.pack(self.version, self.ttl, self.flags) + self.value

    @classmethod
    def parse(cls, body: Buffer) -> "Record":
        """From an untrusted body; raises BadPacket."""
        if len(body) < RECORD.size:
            raise BadPacket("TRUNCATED", f"a record in {len(body)} bytes")
        if len(body) > shared.MAX_BODY:
            raise BadPacket("TOO_LONG", f"a record in {len(body)} bytes")
        version, ttl, flags = RECORD.unpack_from(body)
        return cls(version, ttl, flags, bytes(body[RECORD.size :]))


def pack_write(record: Record, condition: int | None = None) -> bytes:
    """The body of a PUT or DELETE; `condition`: the version that must stand, 0: no record."""
    if condition is None:
        return record.pack()
    version, ttl, flags, value = record
    return RECORD.pack(version, ttl, flags | RecordFlag.IF_VERSION) + EXTRA.pack(condition) + value


def parse_write(body: Buffer) -> tuple[Record, int | None]:
    """The record, IF_VERSION taken off its flags, and the condition in the untrusted body of a PUT or DELETE.

    Raises BadPacket.
    """
    record = Record.parse(body)
    if not record.flags & _IF_VERSION:
        return record, None
    return _split_extra(record, _IF_VERSION)


def pack_decided(record: Record, nonce: int) -> bytes:
    """The body of a STORE that only they take who promised that version to this nonce."""
    version, ttl, flags, value = record
    return RECORD.pack(version, ttl, flags | RecordFlag.DECIDED) + EXTRA.pack(nonce) + value


def parse_store(body: Buffer) -> tuple[Record, int | None]:
    """The record, DECIDED taken off its flags, and the nonce in the untrusted body of a STORE; raises BadPacket."""
    record = Record.parse(body)
    if not record.flags & _DECIDED:
        return record, None
    return _split_extra(record, _DECIDED)


def _split_extra(record: Record, flag: int) -> tuple[Record, int]:
    version, ttl, flags, value = record
    if len(value) < EXTRA.size:
        raise BadPacket("TRUNCATED", f"{len(value)} bytes behind a record that needs {EXTRA.size}")
    return Record(version, ttl, flags ^ flag, value[EXTRA.size :]), EXTRA.unpack_from(value)[0]


def pack_promise(version: int, nonce: int, *, given_back: bool = False) -> bytes:
    """The body of a PROMISE."""
    return PROMISE.pack(version, nonce) + (GIVEN_BACK if given_back else b"")


def parse_promise(body: Buffer) -> tuple[int, int, bool]:
    """Version, nonce and whether it is given back, in the untrusted body of a PROMISE; raises BadPacket."""
    rest = bytes(body[PROMISE.size :])
    if len(body) < PROMISE.size or rest not in (b"", GIVEN_BACK):
        raise BadPacket("BAD_LENGTH", f"a PROMISE of {len(body)} bytes")
    version, nonce = PROMISE.unpack_from(body)
    if not version:
        raise BadPacket("BAD_LENGTH", "a PROMISE without a version")
    return version, nonce, bool(rest)


def pack_contacts(contacts: Iterable[Contact]) -> bytes:
    """38 bytes for each contact, in the order given."""
    return b"".join(CONTACT.pack(*contact) for contact in contacts)


def parse_contacts(body: Buffer) -> list[Contact]:
    """The contacts in an untrusted body, which holds nothing else; raises BadPacket."""
    if len(body) % CONTACT.size:
        raise BadPacket("BAD_LENGTH", f"contacts in {len(body)} bytes")
    if len(body) > shared.MAX_BODY:
        raise BadPacket("TOO_LONG", f"contacts in {len(body)} bytes")
    return [Contact(*fields) for fields in CONTACT.iter_unpack(body)]


def hash_key(key: str | bytes) -> bytes:
    """The 20-byte key of a user's key: BLAKE2b-160 (RFC 7693); text counts as its UTF-8."""
    return blake2b(key.encode() if isinstance(key, str) else key, digest_size=shared.ID_LEN).digest()
