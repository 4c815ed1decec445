"""What the operations mean: arguments to requests, answers to values or exceptions.

No I/O, and nothing of tries and time-outs: that is `_exchange`.
"""

from typing import Any, NamedTuple

from kdht.client._arguments import Key, data_of, hash_of, name_of, whole_number
from kdht.errors import BadPacket, Conflict, NotFound, RequestError, Unconfirmed, ValueTooLarge
from kdht.wire import Buffer, Contact, Record, pack_write, parse_contacts
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status
from kdht.wire.limits import MAX_LEASE, MAX_TTL, MAX_VERSION

MAX_HOPS = 255
"""The field of a message has one byte."""


class Call(NamedTuple):
    """One request, as far as it is the same in every try."""

    op: Op
    name: Key
    """The user's key."""
    key: bytes
    """The 20 bytes that it hashes to."""
    body: bytes = b""
    max_reply: int = 0
    hops: int = 0
    accepts: frozenset[Status] = frozenset()
    """What is an answer beside OK; every other status is an exception."""
    walks_around: bool = True
    """Whether retries take other ways than the best, by `attempt`."""
    hedged: bool = False
    """Whether a second try may follow before the first is lost."""
    condition: int | None = None
    """Of a write: the version that has to stand, 0 for none."""
    tag: int = 0
    """What the caller of many knows it by."""
    part: str = ""
    """Of a large value: what this request is about, for messages."""

    def __str__(self) -> str:
        return f"{self.op.name.lower()} {self.name!r}{self.part and ', '}{self.part}"


class Answer(NamedTuple):
    """The reply that ended a request."""

    status: Status
    body: bytes = b""
    rtt: float = 0.0
    """Seconds from the try that it answers."""


class Hop(NamedTuple):
    """One node on a key's way."""

    contact: Contact | None
    """None if this node did not answer; it is the last of the list then."""
    rtt: float | None
    """Seconds to this node and back, through all before it."""
    owner: bool
    """Whether it is responsible for the key."""


NOT_FOUND = frozenset({Status.NOT_FOUND})

REFUSALS: dict[Status, tuple[type[RequestError], str]] = {
    Status.NOT_FOUND: (NotFound, "the key has no value"),
    Status.NOT_RESPONSIBLE: (RequestError, "no responsible node was reached"),
    Status.COOKIE_NEEDED: (RequestError, "the cluster does not accept the cookie that it gave"),
    Status.TOO_LARGE: (ValueTooLarge, "the value is larger than what this call takes"),
    Status.BAD_REQUEST: (RequestError, "the node cannot read this request: do the versions differ?"),
    Status.STORAGE_FAILED: (RequestError, "the responsible node's disk failed; nothing was changed"),
    Status.BUSY: (RequestError, "the responsible node is busy: try again later"),
    Status.HOPS_ENDED: (RequestError, "the hop limit ended before the responsible node"),
    Status.CONFLICT: (Conflict, "another version stands than the condition says"),
    Status.UNREACHABLE: (RequestError, "the next node on the way is gone"),
    Status.BAD_VERSION: (
        RequestError,
        "a newer version stands, or this host's clock is far off; nothing was changed",
    ),
    Status.TOO_FEW: (
        Unconfirmed,
        "nothing was changed: fewer nodes live than must confirm it; start the others, or kdhtctl forget those that "
        "are gone for good",
    ),
    Status.UNCONFIRMED: (Unconfirmed, "too few replicas answered: it may have been done or not"),
}


def refused(call: Call, answer: Answer) -> RequestError:
    """The exception for an answer that is a refusal."""
    if answer.status is Status.CONFLICT:
        return conflict(call, record(answer).version if answer.body else 0)
    kind, text = REFUSALS[answer.status]
    return kind(f"{call}: {text}", answer.status.name)


def conflict(call: Call, version: int) -> Conflict:
    """The exception for a condition that does not hold; 0 is the version of no record."""
    stands = f"version {version} stands" if version else "there is no record"
    return Conflict(f"{call}: {stands}", version=version)


def _call(op: Op, key: Key, body: bytes = b"", **how: Any) -> Call:
    """Raises TypeError and ValueError for a key that is none."""
    name = name_of(key)
    return Call(op, name, hash_of(name), body, **how)


def get(key: Key, max_value: int = shared.MAX_VALUE, *, quorum: bool = False) -> Call:
    """Raises ValueError unless `max_value`, bytes, is 0 to MAX_VALUE."""
    most = whole_number("max_value", max_value, 0, shared.MAX_VALUE)
    op = Op.QUORUM_GET if quorum else Op.GET
    name = name_of(key)
    return Call(op, name, hash_of(name), max_reply=shared.RECORD_LEN + most, hedged=True)


def check_ttl(ttl: int | None) -> None:
    """Raises ValueError for what is no whole number of seconds above 0."""
    if ttl is not None and not (isinstance(ttl, int) and 0 < ttl <= MAX_TTL):
        raise ValueError(f"a TTL is a number of seconds from 1 to {MAX_TTL}, or None, not {ttl!r}")


def put(key: Key, value: Buffer, ttl: int | None, if_version: int | None = None) -> Call:
    """Raises ValueTooLarge, and ValueError for a TTL or a version that cannot be."""
    data = data_of(value)
    most = shared.MAX_VALUE if if_version is None else shared.MAX_CONDITIONAL_VALUE
    if len(data) > most:
        what = "a value" if if_version is None else "the value of a conditional put"
        raise ValueTooLarge(f"put {key!r}: {what} has at most {most} bytes, this one has {len(data)}")
    check_ttl(ttl)
    return _write(Op.PUT, key, Record(ttl=ttl or 0, value=data), if_version, frozenset())


def delete(key: Key, if_version: int | None = None) -> Call:
    """Raises ValueError for a version that cannot be."""
    return _write(Op.DELETE, key, Record(), if_version, NOT_FOUND)


def _write(op: Op, key: Key, record: Record, condition: int | None, accepts: frozenset[Status]) -> Call:
    if condition is None:
        return _call(op, key, record.pack(), accepts=accepts)
    least = 0 if op is Op.PUT else 1
    if not (isinstance(condition, int) and least <= condition <= MAX_VERSION):
        raise ValueError(f"if_version is a number from {least} to {MAX_VERSION}, or None, not {condition!r}")
    return _call(op, key, pack_write(record, condition), accepts=accepts, condition=condition)


def watch(key: Key, lease: int) -> Call:
    """Raises ValueError unless `lease` is 1 to MAX_LEASE seconds."""
    if not (isinstance(lease, int) and 1 <= lease <= MAX_LEASE):
        raise ValueError(f"a lease is a number of seconds from 1 to {MAX_LEASE}, not {lease!r}")
    return _call(Op.WATCH, key, lease.to_bytes(4, "big"), accepts=NOT_FOUND)


def trace(key: Key, hops: int) -> Call:
    """What the node answers that is `hops` nodes away, the entry node being the first."""
    accepts = frozenset({Status.HOPS_ENDED})
    return _call(Op.TRACE, key, hops=hops, accepts=accepts, walks_around=False)


def record(answer: Answer) -> Record:
    """Of a GET's, a PUT's or a CONFLICT's answer; raises RequestError for a body that holds none."""
    try:
        return Record.parse(answer.body)
    except BadPacket as bad:
        raise RequestError(f"the answer cannot be read: {bad}") from None


def hop(answer: Answer | None) -> Hop:
    """Of a TRACE's answer, or of its absence; raises RequestError for a body that is no contact."""
    if answer is None:
        return Hop(None, None, owner=False)
    if len(answer.body) != shared.CONTACT_LEN:
        raise RequestError(f"the answer cannot be read: a contact in {len(answer.body)} bytes")
    return Hop(parse_contacts(answer.body)[0], answer.rtt, owner=answer.status is Status.OK)


def goes_on(path: list[Hop], max_hops: int) -> bool:
    """Whether a trace that has come this far has another node to ask."""
    if not path:
        return max_hops > 0
    return len(path) < min(max_hops, MAX_HOPS) and path[-1].contact is not None and not path[-1].owner
