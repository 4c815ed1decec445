"""Tokens, and the proofs that requests carry: who may do what with which keys.

Layer 0. A **grant** says what a token is good for: rights, scope, holder, expiry. All of it is public. A **token** is a
grant with its key, which every node can derive from the access secret. A **proof** is the end of a PROVEN request: the
grant again, and a MAC of the request under the token's key. docs/protocol.md explains the fields.

`parse` takes untrusted bytes or text: it gives a value or raises BadPacket or BadToken, nothing else.
"""

import base64
import re
import struct
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from kdht.errors import BadPacket, BadToken
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Right
from kdht.wire.buffer import Buffer
from kdht.wire.messages import hash_key

# A grant, 24 bytes:                       a proof, 64 bytes:
#
#     0      1        2       3   4     8       0                             8
#  0 | kind | rights | epoch | 0 | expiry |   0 | grant, 24 bytes
#  8 | holder                             |  24 | inner key, 20 bytes
# 16 | scope                              |  40 |               | seq ...
#                                           48 | ... seq       | MAC, 12 bytes

GRANT = struct.Struct(">BBBBIQQ")
PROOF = struct.Struct(f">{shared.GRANT_LEN}s{shared.ID_LEN}sQ{shared.PROOF_MAC_LEN}s")
SEQ = struct.Struct(">Q")

PREFIX = "kdht1."
"""Of a token's text. Another layout would get another number."""
KEY_LEN = 16
PROOF_PERSON = b"kdht-proof"
NOBODY = 0
"""The holder of a token for open scopes. Its key is known to all."""
OPEN_KEY = bytes(KEY_LEN)
EVERY_KEY = 0
"""The scope of a token that is good for every key."""
ALL_RIGHTS = Right.READ | Right.WRITE | Right.DELETE | Right.ANNOUNCE | Right.WATCH
NEEDED = {
    Op.GET: Right.READ,
    Op.QUORUM_GET: Right.READ,
    Op.WATCH: Right.WATCH,
    Op.PUT: Right.WRITE,
    Op.DELETE: Right.DELETE,
    Op.ANNOUNCE: Right.ANNOUNCE,
    Op.WITHDRAW: Right.ANNOUNCE,
    Op.MEMBERS: Right.READ,
}
"""The right that each operation asks for. TRACE asks for none: it shows no value."""

_NO_RIGHTS = 0xFF ^ int(ALL_RIGHTS)
_TOKEN_CHARACTERS = 51
_DAMAGED = (
    f"a token has {len(PREFIX) + _TOKEN_CHARACTERS} letters, digits, - and _, and this one is damaged or cut off: copy it "
    "again"
)
_BASE64 = re.compile(r"[A-Za-z0-9_-]*")
_HEX = re.compile(r"[0-9a-fA-F]{16}")


class Grant(NamedTuple):
    """What a token is good for. All of it is public."""

    rights: Right
    epoch: int
    """Of the access secret."""
    expiry: int
    """Unix seconds; 0: never."""
    holder: int
    scope: int
    """`scope_of` a name, or EVERY_KEY."""

    def pack(self) -> bytes:
        """The 24 bytes of struct kdht_grant."""
        return GRANT.pack(shared.GRANT_KIND, self.rights, self.epoch, 0, self.expiry, self.holder, self.scope)

    @classmethod
    def parse(cls, data: Buffer) -> "Grant":
        """From 24 untrusted bytes. Raises BadPacket."""
        if len(data) != GRANT.size:
            raise BadPacket("BAD_LENGTH", f"a grant in {len(data)} bytes")
        kind, rights, epoch, reserved, expiry, holder, scope = GRANT.unpack(data)
        if kind != shared.GRANT_KIND:
            raise BadPacket("BAD_FLAGS", f"a grant of kind {kind}")
        if reserved or rights & _NO_RIGHTS:
            raise BadPacket(
                "BAD_FLAGS", f"a grant with rights {rights:#04x} and a reserved byte {reserved:#04x}"
            )
        return cls(Right(rights), epoch, expiry, holder, scope)


class Token(NamedTuple):
    """A grant with its key. Who has it may do what the grant says."""

    grant: Grant
    key: bytes
    """16 bytes, secret."""

    def __repr__(self) -> str:
        """Without the key: representations end in logs."""
        return f"Token({self.grant!r})"

    @property
    def text(self) -> str:
        """57 characters, for KDHT_TOKEN or a file."""
        grant = self.grant.pack()
        # Without the kind and the reserved byte: the prefix says the kind. A shorter text is easier to hand
        # over.
        return PREFIX + base64.urlsafe_b64encode(grant[1:3] + grant[4:] + self.key).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Token":
        """From a user's text. Raises BadToken, whose message never repeats the text."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise BadToken(f"a token begins with {PREFIX}: is this one whole?")
        rest = text[len(PREFIX) :]
        if len(rest) != _TOKEN_CHARACTERS or not _BASE64.fullmatch(rest):
            raise BadToken(_DAMAGED)
        data = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
        try:
            grant = Grant.parse(bytes((shared.GRANT_KIND, *data[:2], 0)) + data[2 : shared.GRANT_LEN - 2])
        except BadPacket:
            raise BadToken(
                "this token has rights that this version does not know: is kdht too old?"
            ) from None
        found = cls(grant, data[shared.GRANT_LEN - 2 :])
        # The last character has two bits to spare. One token has one text, so texts can be compared.
        if found.text != text:
            raise BadToken(_DAMAGED)
        return found


class Proof(NamedTuple):
    """The last 64 bytes of a PROVEN request."""

    grant: bytes
    """24 bytes, not parsed."""
    inner: bytes
    """The name's hash, before the scope went in: so a node can check the scope."""
    seq: int
    """Of a write: its version. Microseconds since 1970."""
    mac: bytes


def scope_of(name: str) -> int:
    """The number of a scope; EVERY_KEY for the empty name."""
    return _number(name, b"kdht-scope") if name else EVERY_KEY


def holder_of(name: str) -> int:
    """The number of a holder; 16 hexadecimal digits are the number itself."""
    return int(name, 16) if _HEX.fullmatch(name) else _number(name, b"kdht-holder")


def _number(name: str, use: bytes) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=use).digest(), "big")


def scoped_key(inner: bytes, scope: int) -> bytes:
    """The key of a name in a scope, from the name's hash."""
    if scope == EVERY_KEY:
        return inner
    return blake2b(inner + SEQ.pack(scope), digest_size=shared.ID_LEN, person=b"kdht-scoped").digest()


def hash_in(scope: int, name: str | bytes) -> bytes:
    """The 20-byte key for a name in a scope. In EVERY_KEY it is `hash_key`'s."""
    return scoped_key(hash_key(name), scope)


def token_key(access_key: bytes, grant: bytes) -> bytes:
    """The key of the token with this grant. Any node can make it, so no node keeps a list of tokens."""
    return blake2b(grant, digest_size=KEY_LEN, key=access_key, person=b"kdht-grant").digest()


def make_token(grant: Grant, access_key: bytes) -> Token:
    """`access_key` is the one of the grant's epoch. A grant to NOBODY has the known key."""
    return Token(grant, OPEN_KEY if grant.holder == NOBODY else token_key(access_key, grant.pack()))


def open_token(scope: str) -> Token:
    """A token for a scope that the nodes keep open. It needs no secret."""
    return Token(Grant(ALL_RIGHTS, 0, 0, NOBODY, scope_of(scope)), OPEN_KEY)


def proof_mac(key: bytes, op: int, request_key: bytes, body: Buffer, claims: bytes) -> bytes:
    """12 bytes under a token's key. `body`: without its proof. `claims`: the proof without its MAC."""
    # The op and the key of the request first: a captured proof must not serve for another operation or another
    # key.
    mac = blake2b(bytes((op,)), digest_size=shared.PROOF_MAC_LEN, key=key, person=PROOF_PERSON)
    mac.update(request_key)
    mac.update(body)
    mac.update(claims)
    return mac.digest()


def prove(
    token_key: bytes, grant: bytes, op: int, inner: bytes, request_key: bytes, seq: int, body: Buffer
) -> bytes:
    """The proof to put behind `body`, 64 bytes."""
    claims = grant + inner + SEQ.pack(seq)
    return claims + proof_mac(token_key, op, request_key, body, claims)


def split_proof(body: Buffer) -> tuple[Buffer, Proof]:
    """A PROVEN request's untrusted body: what it was without its proof, and the proof. Raises BadPacket."""
    at = len(body) - PROOF.size
    if at < 0:
        raise BadPacket("TRUNCATED", f"a proof in {len(body)} bytes")
    # At the end of the body, so that every op has it at the same place, whatever is before it.
    return body[:at], Proof(*PROOF.unpack_from(body, at))


def is_mac_right(proof: Proof, key: bytes, op: int, request_key: bytes, body: Buffer) -> bool:
    """Whether the proof was made with this token's key, for this request."""
    claims = proof.grant + proof.inner + SEQ.pack(proof.seq)
    return compare_digest(proof.mac, proof_mac(key, op, request_key, body, claims))
