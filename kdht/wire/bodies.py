"""Bodies of messages: records, writes, promises, contacts. Parsing gives a value or raises BadPacket, nothing else."""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire._shared import RecordFlag
from kdht.wire.addresses import Contact
from kdht.wire.buffer import Buffer
from kdht.wire.certified import CERTIFIED, IMMUTABLE, KINDS, MAX_SEQ, SignedValue

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
#  8 | ttl          | flags          |                                16 | 01 or nothing; or flags, 4, and a value
# 16 | condition, or nonce           |
# 24 | value                                                            0 | version      | ttl  | flags |
#
# A PUT of a signed record. Its condition, if it has one, is in the place of the version. Flags: SIGNED, the salt's length:
#
#      0              4              8
#  0 | condition, or 0               |
#  8 | ttl          | flags          |
# 16 | seq                           |
# 24 | public key, 32 | signature, 64 | salt | v

_IF_VERSION = int(RecordFlag.IF_VERSION)
_DECIDED = int(RecordFlag.DECIDED)

RECORD = struct.Struct(">QII")
EXTRA = struct.Struct(">Q")
"""The condition, or the nonce, between a record's head and its value."""
PROMISE = struct.Struct(">QQ")
FLAGS = struct.Struct(">I")
GIVEN_BACK = b"\x01"
"""The last byte of a PROMISE that the coordinator gives back."""
CONTACT = struct.Struct(f">{shared.ID_LEN}s16sH")


class Record(NamedTuple):
    """A value with its version, TTL (seconds, 0: no end) and flags."""

    version: int = 0
    ttl: int = 0
    flags: int = 0
    value: bytes = b""

    def pack(self) -> bytes:
        """The 16 bytes of struct kdht_record and the value."""
        return RECORD.pack(self.version, self.ttl, self.flags) + self.value

    @classmethod
    def parse(cls, body: Buffer) -> "Record":
        """From an untrusted body. Raises BadPacket."""
        if len(body) < RECORD.size:
            raise BadPacket("TRUNCATED", f"a record in {len(body)} bytes")
        if len(body) > shared.MAX_BODY:
            raise BadPacket("TOO_LONG", f"a record in {len(body)} bytes")
        version, ttl, flags = RECORD.unpack_from(body)
        return cls(version, ttl, flags, bytes(body[RECORD.size :]))


def pack_write(record: Record, condition: int | None = None) -> bytes:
    """The body of a PUT or DELETE. `condition`: the version that must be stored, 0: no record may be."""
    if condition is None:
        return record.pack()
    version, ttl, flags, value = record
    return RECORD.pack(version, ttl, flags | RecordFlag.IF_VERSION) + EXTRA.pack(condition) + value


def parse_write(body: Buffer) -> tuple[Record, int | None]:
    """The record (without the flag IF_VERSION) and the condition, from the untrusted body of a PUT or DELETE.

    A self-certified record has the version that it will be stored with. Its certificate is not checked here. Raises BadPacket.
    """
    record = Record.parse(body)
    if record.flags & KINDS:
        # Its version is not the client's choice, so the bytes in its place mean something else.
        return _certified_write(record)
    if not record.flags & _IF_VERSION:
        return record, None
    return _split_extra(record, _IF_VERSION)


def pack_signed_write(signed: SignedValue, ttl: int = 0, condition: int | None = None) -> bytes:
    """The body of a signed record's PUT. `condition`: as in `pack_write`."""
    conditional = 0 if condition is None else _IF_VERSION
    head = RECORD.pack(condition or 0, ttl, signed.flags | conditional)
    return head + EXTRA.pack(signed.seq) + signed.value


def pack_immutable_write(value: bytes, ttl: int = 0) -> bytes:
    """The body of an immutable record's PUT."""
    return RECORD.pack(0, ttl, IMMUTABLE) + value


def _certified_write(record: Record) -> tuple[Record, int | None]:
    """A self-certified record as it will be stored, not checked yet, and the condition."""
    version, ttl, flags, value = record
    if flags & IMMUTABLE:
        if version or flags != IMMUTABLE:
            raise BadPacket(
                "BAD_FLAGS", f"an immutable record with the version {version} and the flags {flags:#x}"
            )
        return Record(CERTIFIED, ttl, flags, value), None
    if len(value) < EXTRA.size:
        raise BadPacket("TRUNCATED", f"{len(value)} bytes behind the head of a signed record")
    (seq,) = EXTRA.unpack_from(value)
    # A greater seq would overflow into the bit that marks such versions.
    if seq > MAX_SEQ or (version and not flags & _IF_VERSION):
        raise BadPacket("BAD_LENGTH", f"a signed record with seq {seq} and the condition {version}")
    stored = Record(CERTIFIED + seq, ttl, flags & ~_IF_VERSION, value[EXTRA.size :])
    return stored, version if flags & _IF_VERSION else None


def pack_decided(record: Record, nonce: int) -> bytes:
    """The body of a STORE that only a replica accepts that promised this version to this nonce."""
    version, ttl, flags, value = record
    return RECORD.pack(version, ttl, flags | RecordFlag.DECIDED) + EXTRA.pack(nonce) + value


def parse_store(body: Buffer) -> tuple[Record, int | None]:
    """The record (without the flag DECIDED) and the nonce, from the untrusted body of a STORE. Raises BadPacket."""
    record = Record.parse(body)
    if not record.flags & _DECIDED:
        return record, None
    return _split_extra(record, _DECIDED)


def _split_extra(record: Record, flag: int) -> tuple[Record, int]:
    version, ttl, flags, value = record
    if len(value) < EXTRA.size:
        raise BadPacket("TRUNCATED", f"{len(value)} bytes behind a record that needs {EXTRA.size}")
    return Record(version, ttl, flags ^ flag, value[EXTRA.size :]), EXTRA.unpack_from(value)[0]


def pack_promise(
    version: int, nonce: int, *, given_back: bool = False, certified: tuple[int, bytes] | None = None
) -> bytes:
    """The body of a PROMISE. `certified`: flags and value of the self-certified record whose version it is."""
    head = PROMISE.pack(version, nonce)
    if certified is not None:
        flags, value = certified
        return head + FLAGS.pack(flags) + value
    return head + (GIVEN_BACK if given_back else b"")


def parse_promise(body: Buffer) -> tuple[int, int, bool]:
    """Version, nonce and "given back", from the untrusted body of a PROMISE. Raises BadPacket."""
    rest = bytes(body[PROMISE.size :])
    if len(body) < PROMISE.size:
        raise BadPacket("BAD_LENGTH", f"a PROMISE of {len(body)} bytes")
    version, nonce = PROMISE.unpack_from(body)
    # Every version is above 0, so such a promise would protect nothing.
    if not version:
        raise BadPacket("BAD_LENGTH", "a PROMISE without a version")
    is_certified = version & CERTIFIED and len(rest) >= FLAGS.size
    if rest not in (b"", GIVEN_BACK) and not is_certified:
        raise BadPacket("BAD_LENGTH", f"a PROMISE of {len(body)} bytes")
    return version, nonce, rest == GIVEN_BACK


def promised_record(body: Buffer) -> tuple[int, bytes]:
    """Flags and value of the record in a parsed PROMISE; no flags if there is none."""
    if len(body) < PROMISE.size + FLAGS.size:
        return 0, b""
    (flags,) = FLAGS.unpack_from(body, PROMISE.size)
    return flags, bytes(body[PROMISE.size + FLAGS.size :])


def pack_contacts(contacts: Iterable[Contact]) -> bytes:
    """38 bytes for each contact, in the order given."""
    return b"".join(CONTACT.pack(*contact) for contact in contacts)


def parse_contacts(body: Buffer) -> list[Contact]:
    """The contacts in an untrusted body that holds nothing else. Raises BadPacket."""
    # Whole contacts alone: a rest would be an answer of another version, or a lie.
    if len(body) % CONTACT.size:
        raise BadPacket("BAD_LENGTH", f"contacts in {len(body)} bytes")
    if len(body) > shared.MAX_BODY:
        raise BadPacket("TOO_LONG", f"contacts in {len(body)} bytes")
    return [Contact(*fields) for fields in CONTACT.iter_unpack(body)]
