"""What holds for each verdict on a message, whatever the message: shared by `packet` and `message`."""

from collections.abc import Callable
from functools import cache
from ipaddress import ip_address

from fuzz.targets.scene import HOME4, HOME6, KEYS, NOW, SELF_ID, buckets, settings
from kdht._routing import Outcome
from kdht.errors import BadPacket
from kdht.wire import FIELD, OFFSET, Address, Contact, check_form, header_tag, parse, verify
from kdht.wire import _shared as shared
from kdht.wire._shared import VERDICT_OF, Flag, Op, Reason, Status, Verdict

_FLAGS, _HOPS, _TIME = OFFSET["flags"], OFFSET["hops"], OFFSET["time"]
_KEPT_BY_ENTRY = slice(OFFSET["request_id"], OFFSET["time"])
_ENDS = (Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.CONTROL, Reason.RELAYED)
MOVED = (Verdict.FORWARD, Verdict.RELAY)


def check(
    number: int, before: bytes, after: bytes, outcome: Outcome, source: Address, target: Address
) -> None:
    """Hold node `number`'s verdict on a message against the rules; AssertionError where it breaks one."""
    reason = outcome.reason
    assert outcome.verdict is VERDICT_OF[reason], outcome
    form = form_of(before)
    assert (reason is Reason.MARTIAN) == _is_martian(source)
    # An impossible source ends it first.
    if reason is Reason.MARTIAN:
        assert after == before, f"{reason!r} changed the message"
        return
    assert form in ("", reason.name), f"{reason!r} for a message whose form is {form}"
    assert len(after) == len(before)
    if form or outcome.verdict is Verdict.DROP:
        assert after == before, f"{reason!r} changed the message"
        return
    if before[_FLAGS] & Flag.FORWARDED:
        check_authentic(before, reason)
    if outcome.verdict in MOVED:
        assert after[shared.HEADER_LEN :] == before[shared.HEADER_LEN :], "the body changed"
        _REWRITTEN[reason](number, before, after, outcome, source, target)
    else:
        assert after == before, f"{reason!r} changed the message"


def _is_martian(source: Address) -> bool:
    host = ip_address(source.host)
    return (
        host.is_loopback
        or host.is_multicast
        or source.ip in (HOME4.ip, HOME6.ip)
        or (source.host.startswith("0.") or source.host in ("::", "255.255.255.255"))
    )


def form_of(message: bytes) -> str:
    """The reason that kdht.wire gives against a message's form, or ""."""
    try:
        check_form(message)
    except BadPacket as bad:
        return bad.reason
    return ""


def check_authentic(message: bytes, reason: Reason) -> None:
    """Nobody outside the cluster gets a member's message forwarded, relayed or taken."""
    if reason in _ENDS:
        verify(message, KEYS, NOW)
        return
    key = next(key for key in KEYS if key.epoch == message[OFFSET["epoch"]])
    sent = int.from_bytes(message[OFFSET["header_tag"] : shared.HEADER_LEN], "big")
    assert sent == header_tag(message, key), f"{reason!r} for a wrong tag"
    assert message[_HOPS] > 0


# --- What ICMP may lead to -----------------------------------------------------------------


def check_bounce(number: int, quoted: bytes, answer: tuple[bytes, Address, Address | None] | None) -> None:
    """Only a member's request, but for TRACE, is answered: to its client, or sealed to its entry node.

    To a client of another entry node only if it takes a direct answer.
    """
    if answer is None:
        return
    data, target, source = answer
    told = parse(data)
    direct = quoted[_FLAGS] & Flag.DIRECT
    assert quoted[_FLAGS] & ~shared.REQUEST_FLAGS == Flag.FORWARDED
    assert shared.FIRST_ROUTED_OP <= quoted[OFFSET["op"]] <= shared.LAST_ROUTED_OP
    assert told.op != Op.TRACE
    key = next(key for key in KEYS if key.epoch == quoted[OFFSET["epoch"]])
    assert quoted[FIELD["header_tag"]] == header_tag(quoted[: shared.HEADER_LEN], key).to_bytes(8, "big")
    assert (told.flags, told.status, told.body) == (Flag.REPLY | Flag.FORWARDED, Status.UNREACHABLE, b"")
    for name in ("op", "key", "request_id", "attempt"):
        assert data[FIELD[name]] == quoted[FIELD[name]], f"its {name} changed"
    client, entry = _address(quoted, "client"), _address(quoted, "entry")
    here = entry in (HOME4, HOME6)
    if not told.time:
        assert here or direct
        assert (target, source) == (client, entry if here else None)
        assert told.epoch == told.header_tag == 0
        assert told.cookie, "every answer to a client has a cookie"
    else:
        assert not here
        assert (target, source, told.client) == (entry, None, client)
        verify(data, KEYS[:1], NOW, 0)


# --- What each rewriting may change --------------------------------------------------------


@cache
def known(number: int) -> dict[bytes, Contact]:
    return {contact.id: contact for bucket in buckets(number).values() for contact in bucket}


def _check_hop(number: int, message: bytes, outcome: Outcome) -> None:
    """On to a contact that is known, and strictly closer to the key than this node."""
    contact = known(number)[outcome.next_id]
    assert outcome.target == contact.address
    key = int.from_bytes(message[OFFSET["key"] : OFFSET["attempt"]], "big")
    assert int.from_bytes(contact.id, "big") ^ key < int.from_bytes(SELF_ID, "big") ^ key
    chosen = settings(number)["source4" if contact.address.is_ipv4 else "source6"] or bytes(16)
    assert outcome.source == Address(chosen, shared.PORT)


def _check_next_hop(number, before, after, outcome, source, target) -> None:
    expected = bytearray(before)
    expected[_HOPS] -= 1
    assert after == expected, "more than the hops changed"
    assert after[_HOPS] > 0
    _check_hop(number, before, outcome)


def _check_entered(number, before, after, outcome, source, target) -> None:
    verify(after, KEYS[:1], NOW, 0)
    message = parse(after)
    assert (message.client, message.entry) == (source, target)
    assert after[_KEPT_BY_ENTRY] == before[_KEPT_BY_ENTRY]
    assert 1 <= message.hops < shared.HOP_LIMIT
    assert message.max_reply <= shared.MAX_BODY
    assert not message.cookie
    assert not message.flags & Flag.REPLY
    _check_hop(number, before, outcome)


def _check_relayed(number, before, after, outcome, source, target) -> None:
    assert outcome.source == _address(before, "entry") in (HOME4, HOME6)
    assert outcome.target == _address(before, "client")
    assert after[:_TIME] == before[:_TIME]
    cookie = after[OFFSET["cookie"] : OFFSET["body_tag"]]
    assert any(cookie), "every answer to a client has a cookie"
    assert not any(after[_TIME : OFFSET["cookie"]] + after[OFFSET["body_tag"] : shared.HEADER_LEN])


def _address(message: bytes, whose: str) -> Address:
    ip, port = OFFSET[f"{whose}_ip"], OFFSET[f"{whose}_port"]
    return Address(message[ip : ip + 16], int.from_bytes(message[port : port + 2], "big"))


_REWRITTEN: dict[Reason, Callable[..., None]] = {
    Reason.NEXT_HOP: _check_next_hop,
    Reason.ENTERED: _check_entered,
    Reason.RELAYED: _check_relayed,
}
