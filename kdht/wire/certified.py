"""Self-certified records: whoever has one can tell by itself that nobody but its owner made it.

    immutable   the key is a hash of the value
    signed      the key is a hash of a public key and a salt, and that key signed the value (BitTorrent's BEP 44)

Contract: layer 0. `check_certified` takes untrusted fields and raises BadPacket; only a signature needs libsodium.

The top bit of a version says that the record is self-certified. Ordinary versions are microseconds since 1970 and never have it.
So the rule "the greater version wins" gives a self-certified record precedence everywhere: nobody can squat on its key.
"""

from hashlib import blake2b, sha1
from typing import NamedTuple

from kdht.errors import BadPacket, Uncertified
from kdht.wire import _shared as shared
from kdht.wire._bencode import is_bencoded
from kdht.wire._shared import RecordFlag
from kdht.wire.sodium import library

# --- The value of a signed record, in the store and in every message:
#
#   0 | public key, 32 | 32 | signature, 64 | 96 | salt | v, bencoded |
#
# Its flags: SIGNED, and the salt's length in bits 8 to 15. Its version: 2^63 + seq.
# The salt is stored, because the signature covers it: without the salt no replica could check anything.

CERTIFIED = 1 << shared.CERTIFIED_BIT
"""In a version: the record is self-certified."""
MAX_SEQ = CERTIFIED - 1
IMMUTABLE, SIGNED = int(RecordFlag.IMMUTABLE), int(RecordFlag.SIGNED)
KINDS = IMMUTABLE | SIGNED
SALT_LENGTHS = 0xFF << shared.SALT_SHIFT
STORED_FLAGS = KINDS | SALT_LENGTHS
"""The flags of a self-certified record that stay with it."""
HEAD_LEN = shared.PUBLIC_KEY_LEN + shared.SIGNATURE_LEN


class SignedValue(NamedTuple):
    """The parts of a signed record. `v` is bencoded."""

    public_key: bytes
    signature: bytes
    salt: bytes
    seq: int
    v: bytes

    @property
    def key(self) -> bytes:
        """The record's key: BEP 44's target."""
        return signed_key(self.public_key, self.salt)

    @property
    def version(self) -> int:
        return CERTIFIED + self.seq

    @property
    def flags(self) -> int:
        return SIGNED | len(self.salt) << shared.SALT_SHIFT

    @property
    def value(self) -> bytes:
        """As it is stored."""
        return self.public_key + self.signature + self.salt + self.v

    @classmethod
    def parse(cls, version: int, flags: int, value: bytes) -> "SignedValue":
        """From untrusted fields of a record. It does not check the signature. Raises BadPacket."""
        salt_length = (flags & SALT_LENGTHS) >> shared.SALT_SHIFT
        begin = HEAD_LEN + salt_length
        if flags & ~SALT_LENGTHS != SIGNED or version < CERTIFIED:
            raise Uncertified(f"a signed record with the flags {flags:#x} and the version {version}")
        if salt_length > shared.MAX_SALT:
            raise BadPacket("BAD_LENGTH", f"a salt of {salt_length} bytes")
        if len(value) <= begin:
            raise BadPacket("TRUNCATED", f"a signed record of {len(value)} bytes")
        if len(value) > HEAD_LEN + shared.MAX_SIGNED:
            raise BadPacket("TOO_LONG", f"a signed record of {len(value)} bytes")
        public_key, signature = value[: shared.PUBLIC_KEY_LEN], value[shared.PUBLIC_KEY_LEN : HEAD_LEN]
        return cls(public_key, signature, value[HEAD_LEN:begin], version - CERTIFIED, value[begin:])


def immutable_key(value: bytes) -> bytes:
    """The key of an immutable record."""
    return blake2b(value, digest_size=shared.ID_LEN, person=b"kdht-immutable").digest()


def signed_key(public_key: bytes, salt: bytes = b"") -> bytes:
    """The key of a signed record: SHA-1, because BEP 44 has it."""
    return sha1(public_key + salt, usedforsecurity=False).digest()


def signed_bytes(salt: bytes, seq: int, v: bytes) -> bytes:
    """The bytes under the signature, as BEP 44 has them."""
    salted = b"4:salt%d:%b" % (len(salt), salt) if salt else b""
    return b"%b3:seqi%de1:v%b" % (salted, seq, v)


def sign(seed: bytes, salt: bytes, seq: int, v: bytes) -> SignedValue:
    """A signed value by the private key `seed`, 32 bytes. Raises MissingLibrary."""
    sodium = library()
    return SignedValue(sodium.public_key(seed), sodium.sign(seed, signed_bytes(salt, seq, v)), salt, seq, v)


def is_certified(version: int, flags: int) -> bool:
    """Whether a record says of itself that it has a certificate. Then it counts only after `check_certified`."""
    return bool(version & CERTIFIED or flags & KINDS)


def is_bare(version: int, flags: int) -> bool:
    """Whether a record has the version of a self-certified one and no certificate at all."""
    return version >= CERTIFIED and not flags & KINDS


def promise_nonce(value: bytes) -> int:
    """The nonce of the promises for a signed record, in place of a request ID.

    Two values of one seq have one version. Of such records the one with the greater signature wins, so of their promises that
    one must win too: else a write that was confirmed by its promises could lose against one that was not.
    """
    return int.from_bytes(value[shared.PUBLIC_KEY_LEN : shared.PUBLIC_KEY_LEN + 8], "big")


def check_certified(key: bytes, version: int, flags: int, value: bytes) -> None:
    """Check the certificate of a record that `is_certified`. Raises Uncertified, BadPacket for its form, and MissingLibrary."""
    if flags == IMMUTABLE:
        if version != CERTIFIED or immutable_key(value) != key:
            raise Uncertified("an immutable record whose key or version is another's")
        return
    signed = SignedValue.parse(version, flags, value)
    # The cheap checks come first.
    if signed.key != key:
        raise Uncertified("a signed record whose key is another's")
    if not is_bencoded(signed.v):
        raise BadPacket("BAD_LENGTH", "a signed value that is not bencoded")
    if not library().verify(
        signed.public_key, signed.signature, signed_bytes(signed.salt, signed.seq, signed.v)
    ):
        raise Uncertified("a signed record whose signature is wrong")
