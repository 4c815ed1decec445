"""A client's token and scope: where its keys lie, and the proof in each of its requests. No I/O and no clock.

With a scope, a name's key is the hash of its plain key and the scope. With a token, a request ends in a proof. The
proof's `seq` is a write's version; of a read it is the time. So a request is proven anew when that changes, and only then.
"""

import os

from kdht.client._calls import Call
from kdht.errors import BadToken, ValueTooLarge
from kdht.remedies import about_file
from kdht.wire import OFFSET, pack_request
from kdht.wire import _shared as shared
from kdht.wire._shared import TRY_BITS, Flag, Op
from kdht.wire.limits import MAX_VERSION
from kdht.wire.rights import EVERY_KEY, PROOF, Token, prove, scope_of, scoped_key

_FLAGS = OFFSET["flags"]
_PROVEN = int(Flag.PROVEN)
_WITHOUT_PROOF = frozenset({Op.TRACE})
"""Operations that ask for no right."""

VARIABLE = "KDHT_TOKEN"
FROM_FILE = "@"
"""Before a file's name, in place of a token."""
# A token is one line. This keeps a wrong path from filling the memory.
MAX_TOKEN_FILE = 4096


class Rights:
    """`token`: None for a client without one. `scope`: its keys lie in that scope."""

    def __init__(self, token: Token | None = None, scope: int = EVERY_KEY) -> None:
        self.scope = scope
        self.token = token
        self._grant = token.grant.pack() if token else b""

    @property
    def proof_size(self) -> int:
        """Bytes of each request that are no longer there for a value."""
        return PROOF.size if self.token else 0

    def key_of(self, plain: bytes) -> bytes:
        """The key in this scope, from a name's hash."""
        return scoped_key(plain, self.scope)

    def in_scope(self, call: Call) -> Call:
        """The call with the key that its name has here."""
        # A self-certified record's key is no name's hash: it is the same in every scope.
        key = call.key if call.certified else scoped_key(call.key, self.scope)
        return call._replace(key=key, inner=call.key)

    def check_room(self, call: Call) -> None:
        """Raises ValueTooLarge for a value without room for the proof."""
        excess = len(call.body) + self.proof_size - shared.MAX_BODY
        if excess > 0 and call.op not in _WITHOUT_PROOF:
            size = len(call.plain) or call.value_size
            raise ValueTooLarge(
                f"{call}: with a token, a value has at most {size - excess} bytes here, this one has {size}"
            )

    def pack(self, call: Call, number: int) -> bytearray:
        """The request, with room for a proof: see `prove`."""
        body = call.body + bytes(self.proof_size) if call.op not in _WITHOUT_PROOF else call.body
        message = pack_request(
            call.op, call.key, number << TRY_BITS, body, hops=call.hops, max_reply=call.max_reply
        )
        if self.token and call.op not in _WITHOUT_PROOF:
            message[_FLAGS] = _PROVEN
        return message

    def prove(self, message: bytearray, call: Call, seq: int) -> None:
        """Write the proof for the message as it is now. No-op without a token."""
        if not message[_FLAGS] & _PROVEN:
            return
        assert self.token is not None
        body = memoryview(message)[shared.HEADER_LEN : -PROOF.size]
        message[-PROOF.size :] = prove(
            self.token.key, self._grant, call.op, call.inner, call.key, min(seq, MAX_VERSION), body
        )


NO_RIGHTS = Rights()


def rights_of(token: str | Token | None, scope: str | None) -> Rights:
    """The rights of a client with these arguments; `$KDHT_TOKEN` in place of no token.

    Raises BadToken for a text that is no token, and for a scope that is not the token's.
    """
    given = os.environ.get(VARIABLE) if token is None else token
    found = given if isinstance(given, Token) else Token.parse(_read(given)) if given else None
    wanted = scope_of(scope) if scope is not None else found.grant.scope if found else EVERY_KEY
    if found and found.grant.scope not in (EVERY_KEY, wanted):
        raise BadToken(
            f"this token is for another scope than {scope!r}: leave the scope out, or use its own token"
        )
    return Rights(found, wanted)


def _read(text: str) -> str:
    """The token's text; that in a file for @FILE."""
    if not text.startswith(FROM_FILE):
        return text
    path = text[len(FROM_FILE) :]
    try:
        with open(path, encoding="ascii") as file:
            return file.read(MAX_TOKEN_FILE)
    except OSError as error:
        raise BadToken(f"the token's file {about_file(path, error)}") from None
    except UnicodeDecodeError:
        raise BadToken(f"the token's file {path} holds no token") from None
