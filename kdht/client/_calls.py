"""What the operations mean: arguments to requests, answers to values or exceptions.

No I/O. Tries and time-outs are in `_exchange`.
"""

from typing import Any, NamedTuple

from kdht.client._arguments import Key, data_of, hash_of, name_of, whole_number
from kdht.errors import BadPacket, Conflict, Denied, NotFound, RequestError, Unconfirmed, ValueTooLarge
from kdht.wire import Buffer, Contact, Record, pack_write, parse_contacts
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_LEASE, MAX_TTL, MAX_VERSION

MAX_HOPS = 255
"""The field of a message has one byte."""


class Call(NamedTuple):
    """The part of a request that is the same in every try."""

    op: Op
    name: Key
    """The user's key."""
    key: bytes
    """Its 20-byte hash; on the way, its key in the client's scope."""
    body: bytes = b""
    max_reply: int = 0
    hops: int = 0
    accepts: frozenset[Status] = frozenset()
    """Statuses that are an answer, beside OK. Every other one becomes an exception."""
    walks_around: bool = True
    """Whether retries take other routes than the best one."""
    hedged: bool = False
    """Whether a second try may follow before the first is lost."""
    condition: int | None = None
    """Of a write: the version that the key must have, 0 for no record. None: no condition."""
    certified: int = 0
    """IMMUTABLE or SIGNED: the record is self-certified, and an answer without the certificate is no answer. 0: an ordinary one."""
    version: int = 0
    """Of a self-certified record's PUT: its version, which nobody can change. 0: the client chooses one."""
    plain: bytes = b""
    """The value of a PUT before it is sealed."""
    tag: int = 0
    """A number by which the caller of many recognises it."""
    inner: bytes = b""
    """The hash before the scope went in, for the proof."""
    member: bytes = b""
    """Of an ANNOUNCE or WITHDRAW: the member's name."""
    part: str = ""
    """Of a large value: the part that this request is about, for messages."""

    @property
    def subject(self) -> bytes:
        """What versions belong to: a key, or a member of the set at this key."""
        return self.key + self.member

    @property
    def value_size(self) -> int:
        """Bytes of a PUT's value."""
        head = shared.RECORD_LEN + (0 if self.condition is None else shared.CONDITION_LEN)
        return max(len(self.body) - head, 0)

    def __str__(self) -> str:
        name = self.key.hex() if self.certified else repr(self.name)
        return f"{self.op.name.lower()} {name}{self.part and ', '}{self.part}"


class Answer(NamedTuple):
    """The reply that ended a request."""

    status: Status
    body: bytes = b""
    rtt: float = 0.0
    """Seconds since the try that it answers."""


class Hop(NamedTuple):
    """One node on the route to a key."""

    contact: Contact | None
    """None if this node did not answer; then it is the last of the list."""
    rtt: float | None
    """Seconds to this node and back, through all nodes before it."""
    owner: bool
    """Whether it is responsible for the key."""


NOT_FOUND = frozenset({Status.NOT_FOUND})

REASONS: dict[Status, tuple[type[RequestError], str]] = {
    Status.NOT_FOUND: (NotFound, "the key has no value"),
    Status.NOT_RESPONSIBLE: (RequestError, "no responsible node was reached"),
    Status.COOKIE_NEEDED: (RequestError, "the cluster does not accept its own cookie"),
    Status.TOO_LARGE: (ValueTooLarge, "the value is longer than this call allows"),
    Status.BAD_REQUEST: (RequestError, "the node cannot read this request: do the versions differ?"),
    Status.STORAGE_FAILED: (RequestError, "the responsible node's disk failed"),
    Status.BUSY: (RequestError, "the responsible node is busy: try again later"),
    Status.HOPS_ENDED: (RequestError, "the hop limit ended before the responsible node"),
    Status.CONFLICT: (Conflict, "the key has another version than the condition names"),
    Status.UNREACHABLE: (RequestError, "the next node on the route does not listen"),
    Status.DENIED: (
        Denied,
        "this client may not do this: give it a token with the right, in KDHT_TOKEN or --token",
    ),
    Status.FULL: (
        RequestError,
        "the cluster has no room for it, or it is to be kept for longer than the nodes allow: "
        "delete something, or ask its operator",
    ),
    Status.BAD_VERSION: (RequestError, "the key has a newer version, or this host's clock is far off"),
    Status.TOO_FEW: (
        Unconfirmed,
        "fewer nodes live than must confirm a write: start the others, or run kdhtctl forget for those that are "
        "gone for good",
    ),
    Status.UNCONFIRMED: (Unconfirmed, "too few replicas answered: it may have been done or not"),
}
"""Why a request was refused."""

_REASONS_OF_READS = {
    Status.BAD_VERSION: "this host's clock is far off",
    Status.TOO_FEW: "fewer nodes live than must answer this read: start the others, or run kdhtctl forget for those "
    "that are gone for good",
    Status.UNCONFIRMED: "too few replicas answered to be sure of the value, or that there is none: read again",
}
"""Their own words, for a read changes nothing."""

_WRITES = frozenset({Op.PUT, Op.DELETE})
_SAYS_UNCHANGED = frozenset(
    {Status.STORAGE_FAILED, Status.DENIED, Status.FULL, Status.BAD_VERSION, Status.TOO_FEW}
)
"""Refusals of a write that say so: their reasons leave it open."""


def refused(call: Call, answer: Answer) -> RequestError:
    """The exception for a status that is not accepted."""
    status = answer.status
    if status is Status.CONFLICT or (call.version and status is Status.BAD_VERSION):
        return conflict(call, record(answer).version if answer.body else 0)
    kind, reason = REASONS[status]
    if call.op not in _WRITES:
        reason = _REASONS_OF_READS.get(status, reason)
    elif status in _SAYS_UNCHANGED:
        reason = f"nothing was changed: {reason}"
    return kind(f"{call}: {reason}", status.name)


def conflict(call: Call, version: int) -> Conflict:
    """The exception for a condition that does not hold. `version` is the key's, 0 if it has no record."""
    stands = f"the key has version {version}" if version else "the key has no record"
    if version >= CERTIFIED:
        again = ", with another value" if version == call.version else ""
        stands = f"the key has seq {version - CERTIFIED}{again}"
    return Conflict(f"{call}: {stands}", version=version)


def _call(op: Op, key: Key, body: bytes = b"", **how: Any) -> Call:
    """Raises TypeError or ValueError for what is no key."""
    name = name_of(key)
    return Call(op, name, hash_of(name), body, **how)


def get(key: Key, max_value: int = shared.MAX_VALUE, *, quorum: bool = False) -> Call:
    """A GET or QUORUM_GET. Raises ValueError unless `max_value`, bytes, is 0 to MAX_VALUE."""
    most = whole_number("max_value", max_value, 0, shared.MAX_VALUE)
    op = Op.QUORUM_GET if quorum else Op.GET
    name = name_of(key)
    return Call(op, name, hash_of(name), max_reply=shared.RECORD_LEN + most, hedged=True)


def check_ttl(ttl: int | None) -> None:
    """Raises ValueError unless `ttl` is None or a whole number of seconds, 1 to MAX_TTL."""
    if ttl is not None and not (isinstance(ttl, int) and 0 < ttl <= MAX_TTL):
        raise ValueError(f"a TTL is a number of seconds from 1 to {MAX_TTL}, or None, not {ttl!r}")


def put(key: Key, value: Buffer, ttl: int | None, if_version: int | None = None) -> Call:
    """A PUT. Raises ValueTooLarge, and ValueError for an impossible TTL or version."""
    data = data_of(value)
    most = shared.MAX_VALUE if if_version is None else shared.MAX_CONDITIONAL_VALUE
    if len(data) > most:
        what = "a value" if if_version is None else "the value of a conditional put"
        raise ValueTooLarge(f"put {key!r}: {what} has at most {most} bytes, this one has {len(data)}")
    check_ttl(ttl)
    return _write(Op.PUT, key, Record(ttl=ttl or 0, value=data), if_version, frozenset())


def delete(key: Key, if_version: int | None = None) -> Call:
    """A DELETE. Raises ValueError for an impossible version."""
    return _write(Op.DELETE, key, Record(), if_version, NOT_FOUND)


def _write(op: Op, key: Key, record: Record, condition: int | None, accepts: frozenset[Status]) -> Call:
    if condition is None:
        return _call(op, key, record.pack(), accepts=accepts)
    least = 0 if op is Op.PUT else 1
    if not (isinstance(condition, int) and least <= condition <= MAX_VERSION):
        raise ValueError(f"if_version is a number from {least} to {MAX_VERSION}, or None, not {condition!r}")
    return _call(op, key, pack_write(record, condition), accepts=accepts, condition=condition)


def watch(key: Key, lease: int) -> Call:
    """A WATCH. Raises ValueError unless `lease` is 1 to MAX_LEASE seconds."""
    if not (isinstance(lease, int) and 1 <= lease <= MAX_LEASE):
        raise ValueError(f"a lease is a number of seconds from 1 to {MAX_LEASE}, not {lease!r}")
    return _call(Op.WATCH, key, lease.to_bytes(4, "big"), accepts=NOT_FOUND)


def trace(key: Key, hops: int) -> Call:
    """A TRACE that the node at place `hops` answers; the entry node has place 1."""
    accepts = frozenset({Status.HOPS_ENDED})
    return _call(Op.TRACE, key, hops=hops, accepts=accepts, walks_around=False)


def record(answer: Answer) -> Record:
    """The record in the answer to a GET or PUT, or in a CONFLICT. Raises RequestError if it cannot be parsed."""
    try:
        return Record.parse(answer.body)
    except BadPacket as bad:
        raise RequestError(f"the answer cannot be read: {bad}") from None


def hop(answer: Answer | None) -> Hop:
    """The hop in a TRACE's answer; None for no answer. Raises RequestError if the body is no contact."""
    if answer is None:
        return Hop(None, None, owner=False)
    if len(answer.body) != shared.CONTACT_LEN:
        raise RequestError(f"the answer cannot be read: a contact in {len(answer.body)} bytes")
    return Hop(parse_contacts(answer.body)[0], answer.rtt, owner=answer.status is Status.OK)


def goes_on(path: list[Hop], max_hops: int) -> bool:
    """Whether a trace with this path so far has another node to ask."""
    if not path:
        return max_hops > 0
    return len(path) < min(max_hops, MAX_HOPS) and path[-1].contact is not None and not path[-1].owner
