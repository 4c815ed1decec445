"""The header, and whole messages: to bytes and back.

Layer 0. `parse` takes untrusted bytes: it gives a value or raises BadPacket, nothing else. The layout comes
from include/kdht_shared.h through kdht.wire._shared. docs/protocol.md explains the fields. Integers are
big-endian.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b

from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Status
from kdht.wire.addresses import NO_IP, NOWHERE, Address
from kdht.wire.buffer import Buffer

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
# 104| header tag: over all before it but hops                       |
# 112| body

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q", 16: "16s", shared.ID_LEN: f"{shared.ID_LEN}s"}
HEADER = struct.Struct(">" + "".join(_CODES[size] for _, _, size in shared.LAYOUT))
OFFSET = {name: offset for name, offset, _ in shared.LAYOUT}
FIELD = {name: slice(offset, offset + size) for name, offset, size in shared.LAYOUT}

NO_FLAGS = Flag(0)
_UNKNOWN_FLAGS = 0xFF ^ shared.KNOWN_FLAGS
# A look-up in a dict costs a tenth of Op(number), and every control message needs three.
_OPS = {int(op): op for op in Op}
STATUS_OF = {int(status): status for status in Status}
"""By the status byte of a reply."""
# All of them, made once: a call of Flag for each message would cost more than the rest of `parse`.
_FLAGS = {flags: Flag(flags) for flags in range(256) if not flags & _UNKNOWN_FLAGS}
_REPLY = int(Flag.REPLY)
_OF_REQUESTS = shared.REQUEST_FLAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One datagram. The fields that the entry node fills in default to zero."""

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
        """Whether the flag REPLY is set."""
        return int(self.flags) & _REPLY != 0

    def pack(self) -> bytearray:
        """The datagram: 112 bytes and the body. Raises ValueError if a field cannot hold its value."""
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
    op: int,
    key: bytes,
    request_id: int,
    body: bytes = b"",
    *,
    hops: int = 0,
    max_reply: int = 0,
    cookie: int = 0,
) -> bytearray:
    """A client's request, the same bytes as from Message.pack. Faster, because it makes no Message."""
    fields = (op, 0, hops, request_id, key, 0, 0, len(body), 0, 0, 0, 0, NO_IP, NO_IP, 0, max_reply)
    return bytearray(HEADER.pack(shared.MAGIC, shared.VERSION, *fields, 0, cookie, 0, 0) + body)


def check_form(data: Buffer) -> None:
    """Check the form of untrusted bytes. Raises BadPacket.

    The checks have the order of the routing core's, so that both give the same reason.
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
    # Both numbers: either may be the wrong one, and the core calls both the same.
    if max(length - shared.HEADER_LEN, body_len) > shared.MAX_BODY:
        raise BadPacket("TOO_LONG", f"{length} bytes")
    if shared.HEADER_LEN + body_len != length:
        raise BadPacket("BAD_LENGTH", f"body length {body_len} in {length} bytes")
    flags = data[OFFSET["flags"]]
    if flags & _UNKNOWN_FLAGS or (
        flags & _OF_REQUESTS and (flags & _REPLY or data[OFFSET["op"]] > shared.LAST_ROUTED_OP)
    ):
        raise BadPacket("BAD_FLAGS", f"{flags:#04x}")
    if data[OFFSET["op"]] not in _OPS:
        raise BadPacket("BAD_OP", f"{data[OFFSET['op']]:#04x}")


def parse(data: Buffer) -> Message:
    """The message in untrusted bytes. Raises BadPacket. It does not check tags and times: see `verify`.

    An unknown status is BAD_FLAGS. Reserved fields are ignored.
    """
    check_form(data)
    (_, _, op, flags, hops, request_id, key, attempt, status, _, time, epoch, _, client_port,
     client_ip, entry_ip, entry_port, max_reply, _, cookie, body_tag, header_tag) = HEADER.unpack_from(data)  # fmt: skip
    known_status = STATUS_OF.get(status)
    # Also in requests, where it is 0: a node of another version must not be misread.
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


def hash_key(key: str | bytes) -> bytes:
    """The 20-byte key for a name: its BLAKE2b-160 (RFC 7693). Text is encoded as UTF-8."""
    return blake2b(key.encode() if isinstance(key, str) else key, digest_size=shared.ID_LEN).digest()
