"""Sets: to be a member of one, to be it no more, and to read its members. No I/O and no clock.

`announce`, `withdraw` and `members` are operations as in `_steps`: generators that both clients run. `_announcement` renews
announcements.
"""

from kdht.client._arguments import Key, data_of, hash_of, name_of, whole_number
from kdht.client._calls import NOT_FOUND, Answer, Call, record
from kdht.client._steps import Steps
from kdht.errors import BadPacket, RequestError, ValueTooLarge
from kdht.wire import Buffer
from kdht.wire._shared import Op, Status
from kdht.wire.limits import MAX_LEASE
from kdht.wire.sets import (
    ANYWHERE,
    END,
    FIRST,
    MAX_MEMBER_TTL,
    MAX_PAYLOAD,
    NAME_LEN,
    QUORUM,
    Member,
    MembersPage,
    default_name,
    pack_announcement,
    pack_lease,
    pack_question,
    parse_members,
)

# Seconds: a service that dies is gone after so long, and its renewals, three in this time, cost little.
DEFAULT_TTL = 30


def member_name(payload: bytes, member: str | bytes | None) -> bytes:
    """8 bytes: the announcer's choice, or made from the payload."""
    if member is None:
        return default_name(payload)
    chosen = member.encode() if isinstance(member, str) else data_of(member, "a member's name")
    return chosen if len(chosen) == NAME_LEN else default_name(chosen)


def announce_call(
    name: Key,
    payload: Buffer,
    ttl: int,
    member: str | bytes | None,
    *,
    soft: bool = False,
    renewal: bool = False,
) -> Call:
    """An ANNOUNCE. Raises ValueTooLarge, and BadArgument for an impossible TTL."""
    data = data_of(payload, "a payload")
    if len(data) > MAX_PAYLOAD:
        raise ValueTooLarge(
            f"announce {name!r}: a payload has at most {MAX_PAYLOAD} bytes, this one has {len(data)}"
        )
    seconds = whole_number("ttl", ttl, 1, MAX_MEMBER_TTL)
    chosen = member_name(data, member)
    body = pack_announcement(chosen, seconds, data, soft=soft, renewal=renewal)
    return _call(Op.ANNOUNCE, name, body, member=chosen)


def withdraw_call(name: Key, payload: Buffer, ttl: int, member: str | bytes | None) -> Call:
    """A WITHDRAW. `ttl`: the greatest one of the announcements."""
    seconds = whole_number("ttl", ttl, 1, MAX_MEMBER_TTL)
    chosen = member_name(data_of(payload, "a payload"), member)
    return _call(Op.WITHDRAW, name, pack_announcement(chosen, seconds), member=chosen, accepts=NOT_FOUND)


def members_call(name: Key, cursor: int, *, quorum: bool) -> Call:
    """A MEMBERS."""
    return _call(Op.MEMBERS, name, pack_question(cursor, QUORUM if quorum else 0), hedged=True)


def watch_call(name: Key, lease: int) -> Call:
    """A WATCH of a set. Raises BadArgument unless `lease` is 1 to MAX_LEASE seconds."""
    seconds = whole_number("lease", lease, 1, MAX_LEASE)
    return _call(Op.WATCH, name, pack_lease(seconds, FIRST))


def _call(
    op: Op,
    name: Key,
    body: bytes,
    *,
    member: bytes = b"",
    accepts: frozenset[Status] = frozenset(),
    hedged: bool = False,
) -> Call:
    name = name_of(name)
    return Call(op, name, hash_of(name), body, member=member, accepts=accepts, hedged=hedged)


# --- Operations


def announce(
    name: Key,
    payload: Buffer,
    ttl: int,
    member: str | bytes | None,
    *,
    soft: bool = False,
    renewal: bool = False,
) -> Steps[int]:
    """Returns the version."""
    call = announce_call(name, payload, ttl, member, soft=soft, renewal=renewal)
    return record((yield call)).version


def withdraw(name: Key, payload: Buffer, ttl: int, member: str | bytes | None) -> Steps[bool]:
    """Returns whether it was a member."""
    answer = yield withdraw_call(name, payload, ttl, member)
    return bool(answer.status is Status.OK)


def members(name: Key, *, quorum: bool, most: int | None = None) -> Steps[list[Member]]:
    """All members, in the order of their IDs. Who is a member throughout the walk is seen. Of more than `most` members a
    sample instead.
    """
    found: dict[int, Member] = {}
    cursor = FIRST
    while cursor != END:
        page = _page((yield members_call(name, cursor, quorum=quorum)))
        if most is not None and page.total > most:
            return (yield from sample(name, quorum=quorum))[:most]
        found.update((member.id, member) for member in page.members)
        if page.next != END and page.next <= cursor:
            raise RequestError(f"members {name!r}: a node's answer leads backwards")
        cursor = page.next
    return [found[id] for id in sorted(found)]


def sample(name: Key, *, quorum: bool) -> Steps[list[Member]]:
    """As many members as one answer has: of a large set others at each call."""
    return _page((yield members_call(name, ANYWHERE, quorum=quorum))).members


def one_page(name: Key, *, quorum: bool) -> Steps[MembersPage]:
    """A sample, and how many members there are."""
    return _page((yield members_call(name, ANYWHERE, quorum=quorum)))


def _page(answer: Answer) -> MembersPage:
    try:
        return parse_members(answer.body)
    except BadPacket as bad:
        raise RequestError(f"the answer cannot be read: {bad}") from None
