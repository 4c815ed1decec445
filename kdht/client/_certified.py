"""Immutable and signed values: as requests, and as operations. No I/O.

Every answer with such a record is checked before it counts (`_record_checks`).
"""

from collections.abc import Callable
from typing import NamedTuple

from kdht.client._arguments import data_of, whole_number
from kdht.client._calls import Call, check_ttl, record
from kdht.client._keyfiles import SigningKey
from kdht.client._steps import Steps
from kdht.errors import BadArgument, Conflict, NotFound, ValueTooLarge
from kdht.wire import Buffer, pack_immutable_write, pack_signed_write
from kdht.wire import _shared as shared
from kdht.wire._shared import Op
from kdht.wire.bencode import Bencodable, Bencoded, decode, encode
from kdht.wire.certified import (
    CERTIFIED,
    IMMUTABLE,
    MAX_SEQ,
    SIGNED,
    SignedValue,
    immutable_key,
    sign,
    signed_key,
)
from kdht.wire.sodium import library

NO_VALUE = -1
"""As `if_seq`: the key must have no value."""
SEQ_TRIES = 3
"""Times that a write without a given seq reads the present one and signs again."""


class SignedRecord(NamedTuple):
    """A signed value that was checked."""

    value: Bencoded
    """Bytes, a number, a list or a dictionary; text comes back as bytes."""
    seq: int
    ttl: int
    """The seconds that it has left; 0: without end."""


# --- Requests


def put_immutable(value: Buffer, ttl: int | None) -> Call:
    """A PUT of an immutable value. Raises ValueTooLarge, and ValueError for an impossible TTL."""
    data = data_of(value)
    if len(data) > shared.MAX_VALUE:
        raise ValueTooLarge(
            f"an immutable value has at most {shared.MAX_VALUE} bytes, this one has {len(data)}"
        )
    check_ttl(ttl)
    key = immutable_key(data)
    return Call(
        Op.PUT, key, key, pack_immutable_write(data, ttl or 0), certified=IMMUTABLE, version=CERTIFIED
    )


def get_immutable(key: bytes, *, quorum: bool) -> Call:
    """A GET of an immutable value. Raises ValueError for what is no key."""
    return _get(_sized("the key of an immutable value", key, shared.ID_LEN), IMMUTABLE, quorum=quorum)


def put_signed(signed: SignedValue, ttl: int | None, condition: int | None) -> Call:
    """A PUT of a signed value. Raises ValueTooLarge, and ValueError for an impossible TTL."""
    check_ttl(ttl)
    if len(signed.salt) > shared.MAX_SALT:
        raise BadArgument(f"a salt has at most {shared.MAX_SALT} bytes, this one has {len(signed.salt)}")
    length = len(signed.salt) + len(signed.v)
    if length > shared.MAX_SIGNED:
        raise ValueTooLarge(
            f"a signed value and its salt have at most {shared.MAX_SIGNED} bytes, bencoded; these have {length}"
        )
    body = pack_signed_write(signed, ttl or 0, condition)
    key = signed.key
    return Call(Op.PUT, key, key, body, condition=condition, certified=SIGNED, version=signed.version)


def get_signed(public_key: bytes, salt: bytes, *, quorum: bool) -> Call:
    """A GET of a signed value. Raises ValueError for what is no public key."""
    library()  # said before anything is sent
    public_key = _sized("a public key", public_key, shared.PUBLIC_KEY_LEN)
    return _get(signed_key(public_key, _salt(salt)), SIGNED, quorum=quorum)


def _get(key: bytes, kind: int, *, quorum: bool) -> Call:
    op = Op.QUORUM_GET if quorum else Op.GET
    return Call(op, key, key, max_reply=shared.MAX_BODY, hedged=True, certified=kind)


def _sized(what: str, data: Buffer, length: int) -> bytes:
    found = data_of(data, what)
    if len(found) != length:
        raise BadArgument(f"{what} has {length} bytes, not {len(found)}")
    return found


def _salt(salt: str | bytes) -> bytes:
    found = salt.encode() if isinstance(salt, str) else data_of(salt, "a salt")
    if len(found) > shared.MAX_SALT:
        raise BadArgument(f"a salt has at most {shared.MAX_SALT} bytes, this one has {len(found)}")
    return found


# --- Operations


def write_immutable(value: Buffer, ttl: int | None) -> Steps[bytes]:
    """Returns the key."""
    call = put_immutable(value, ttl)
    yield call
    return call.key


def write_signed(
    key: SigningKey,
    value: Bencodable,
    ttl: int | None,
    salt: str | bytes,
    seq: int | None,
    if_seq: int | None,
    unix_us: Callable[[], int],
) -> Steps[int]:
    """Returns the seq. Raises Conflict if the key has this seq or a greater one, or not `if_seq`."""
    named, v = _salt(salt), encode(value)
    condition = None
    if if_seq is not None:
        condition = CERTIFIED + whole_number("if_seq", if_seq, NO_VALUE, MAX_SEQ) if if_seq != NO_VALUE else 0
    if seq is not None:
        given = whole_number("seq", seq, 0, MAX_SEQ)
        yield put_signed(sign(key.secret, named, given, v), ttl, condition)
        return given
    least = 0 if condition in (None, 0) else (if_seq or 0) + 1
    for tries in range(SEQ_TRIES):
        chosen = min(max(unix_us(), least), MAX_SEQ)
        try:
            yield put_signed(sign(key.secret, named, chosen, v), ttl, condition)
        except Conflict:
            if condition is not None or tries + 1 == SEQ_TRIES:
                raise
        else:
            return chosen
        # Only a seq that this key has signed counts: a node's word could make it sign the last seq of all.
        least = (yield from _present_seq(key.public_key, named)) + 1
    raise AssertionError("unreachable")


def _present_seq(public_key: bytes, salt: bytes) -> Steps[int]:
    try:
        found = yield from read_signed(public_key, salt, quorum=True)
    except NotFound:
        return -1
    return found.seq


def read_signed(public_key: bytes, salt: str | bytes, *, quorum: bool) -> Steps[SignedRecord]:
    """The value, checked. Raises NotFound."""
    found = record((yield get_signed(public_key, _salt(salt), quorum=quorum)))
    signed = SignedValue.parse(found.version, found.flags, found.value)
    return SignedRecord(decode(signed.v), signed.seq, found.ttl)


def read_immutable(key: bytes, *, quorum: bool) -> Steps[bytes]:
    """The value, checked. Raises NotFound."""
    return record((yield get_immutable(key, quorum=quorum))).value
