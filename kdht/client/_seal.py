"""Sealed values: encrypted by the client, so that no node can read or alter them. No I/O and no clock.

     0               8        12            36
  0 | "KDHTSV01"    | key ID | nonce, 24 ...| encrypted value ... | tag, 16 |

XChaCha20-Poly1305 with a random nonce. The tag also covers the record's key and version: the value of another key, or an old
value under a new version, does not open. What stays visible: names' hashes, sizes, times, and who reads and writes.
"""

import os

from kdht.client._calls import Answer, Call
from kdht.client._keyfiles import SealKey
from kdht.errors import BadArgument, ValueTooLarge
from kdht.wire import RECORD
from kdht.wire import _shared as shared
from kdht.wire._shared import HEADER_LEN, Op, RecordFlag, Status
from kdht.wire.limits import SEAL_OVERHEAD as OVERHEAD
from kdht.wire.sodium import library

MAGIC = b"KDHTSV01"
ID_LEN = 4
NONCE_LEN = 24
TAG_LEN = 16
HEAD_LEN = len(MAGIC) + ID_LEN + NONCE_LEN
assert HEAD_LEN + TAG_LEN == OVERHEAD
_READS = frozenset({Op.GET, Op.QUORUM_GET})
_SETS = frozenset({Op.ANNOUNCE, Op.WITHDRAW, Op.MEMBERS})
_TOMBSTONE = int(RecordFlag.TOMBSTONE)


def is_sealed(value: bytes) -> bool:
    """Whether this value of a client without a key looks like a sealed one."""
    return value.startswith(MAGIC) and len(value) >= OVERHEAD


class Seal:
    """What a client does to its values. Without a key: nothing. Raises MissingLibrary for a key without libsodium."""

    def __init__(self, key: SealKey | None = None) -> None:
        self.key = key
        if key is not None:
            library()

    @property
    def overhead(self) -> int:
        """Bytes of each record that are no longer there for a value."""
        return 0 if self.key is None else OVERHEAD

    def fitted(self, call: Call) -> Call:
        """The call with room for what sealing adds. Raises ValueTooLarge, and ValueError for what is not sealed."""
        if self.key is None:
            return call
        if call.certified:
            raise BadArgument(
                "a client with a seal neither signs nor hashes values: use another client for those"
            )
        if call.op in _SETS:
            raise BadArgument("payloads of sets are not sealed: use a client without a seal for sets")
        if call.op in _READS:
            return call._replace(max_reply=min(call.max_reply + OVERHEAD, shared.MAX_BODY))
        if call.op is not Op.PUT:
            return call
        head = _head_len(call)
        value = call.body[head:]
        if len(call.body) + OVERHEAD > shared.MAX_BODY:
            most = shared.MAX_BODY - head - OVERHEAD
            raise ValueTooLarge(
                f"{call}: a sealed value has at most {most} bytes here, this one has {len(value)}"
            )
        return call._replace(body=call.body[:head] + bytes(len(value) + OVERHEAD), plain=value)

    def close(self, message: bytearray, call: Call, version: int) -> None:
        """Write the sealed value of a PUT into its message, which has `version`. No-op without a key."""
        if self.key is None or call.op is not Op.PUT:
            return
        nonce = os.urandom(NONCE_LEN)
        sealed = library().encrypt(self.key.secret, nonce, call.plain, _bound(call.key, version))
        begin = HEADER_LEN + _head_len(call)
        value = MAGIC + self.key.id + nonce + sealed
        message[begin : begin + len(value)] = value

    def open(self, call: Call, answer: Answer) -> tuple[Answer, str]:
        """The answer with its value as it was before it was sealed; or why it cannot be opened."""
        if self.key is None or len(answer.body) < shared.RECORD_LEN:
            return answer, ""
        version, _, flags = RECORD.unpack_from(answer.body)
        if flags & _TOMBSTONE or answer.status is Status.NOT_FOUND:
            return answer, ""
        value = answer.body[shared.RECORD_LEN :]
        if not is_sealed(value):
            return answer, "the value is not sealed"
        named = value[len(MAGIC) : len(MAGIC) + ID_LEN]
        if named != self.key.id:
            return (
                answer,
                f"the value is sealed with the key {named.hex()}, this client has {self.key.id.hex()}",
            )
        nonce, sealed = value[HEAD_LEN - NONCE_LEN : HEAD_LEN], value[HEAD_LEN:]
        plain = library().decrypt(self.key.secret, nonce, sealed, _bound(call.key, version))
        if plain is None:
            return answer, "the sealed value was altered, or is that of another key or version"
        return answer._replace(body=answer.body[: shared.RECORD_LEN] + plain), ""


NO_SEAL = Seal()


def _head_len(call: Call) -> int:
    """Bytes before the value in a PUT's body."""
    return shared.RECORD_LEN + (0 if call.condition is None else shared.CONDITION_LEN)


def _bound(key: bytes, version: int) -> bytes:
    """What the tag covers beside the value."""
    return MAGIC + key + version.to_bytes(8, "big")


def seal_of(seal: "SealKey | str | os.PathLike[str] | None") -> Seal:
    """The seal of a client with this argument: a key, or a file with one. Raises ConfigError, MissingLibrary."""
    if seal is None:
        return NO_SEAL
    return Seal(seal if isinstance(seal, SealKey) else SealKey.load(seal))
