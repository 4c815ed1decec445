"""Frames, judgements and differences as plain data, for --json and draw.py."""

from typing import Any

from kdht.replay._capture import Frame
from kdht.replay._engine import Judgement
from kdht.replay.capture import link_name
from kdht.replay.compare import Difference
from kdht.replay.packets import take_apart
from kdht.replay.seen import Seen
from kdht.replay.tables import ReplayTable
from kdht.wire import Address
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

GOES_ON = (Verdict.FORWARD, Verdict.RELAY)
ANSWERED = (Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS)


def frame(found: Frame) -> dict[str, Any]:
    """A packet's place in its capture; `time` in seconds."""
    return {
        "number": found.number,
        "offset": found.offset,
        "time": found.nanos / 1e9,
        "link": link_name(found.link),
        "bytes": found.captured,
        "cut_short": found.original > found.captured,
    }


def judgement(table: ReplayTable, packet: bytes, found: Judgement, changes: bool = False) -> dict[str, Any]:
    """A verdict. With `changes`, also the changed bytes of the packet."""
    if found.reason is None:
        return {"verdict": None, "unable": found.unable}
    verdict = VERDICT_OF[found.reason]
    plain: dict[str, Any] = {"verdict": verdict.name, "reason": found.reason.name}
    if verdict in GOES_ON:
        source, target = _ends(found)
        plain |= {"source": _shown(source), "target": _shown(target)}
        if verdict is Verdict.FORWARD:
            plain["next_hop"] = next_hop(table, found.next_id, target)
    if found.reason in ANSWERED and found.max_reply is not None:
        plain["max_reply"] = found.max_reply
    if found.action is not None:
        plain["action"] = found.action
    if changes and found.data != packet:
        from kdht.replay import dissect

        plain["changes"] = [
            {
                "offset": each.offset,
                "field": each.field,
                "before": each.before.hex(),
                "after": each.after.hex(),
            }
            for each in dissect.changes(packet, found.data)
        ]
    return plain


def _ends(found: Judgement) -> tuple[Address | None, Address | None]:
    """Where the packet comes from and goes to now, told or read from it."""
    if found.source is not None:
        return found.source, found.target
    datagram = take_apart(found.data)
    return (datagram.source, datagram.target) if datagram else (None, None)


def _shown(address: Address | None) -> str | None:
    return str(address) if address else None


def next_hop(table: ReplayTable, next_id: bytes | None, target: Address | None) -> str | None:
    """The next hop's ID; by its address where the implementation does not tell it."""
    if next_id is not None:
        return next_id.hex()
    return next((contact.id.hex() for contact in table.contacts if contact.address == target), None)


def seen(found: Seen | None) -> dict[str, Any] | None:
    """The observations of a live node."""
    if found is None:
        return None
    return {
        "what": found.what,
        "counted": found.reason.name if found.reason is not None else None,
        "counted_by_socket": found.by_socket.name if found.by_socket is not None else None,
        "source": _shown(found.source),
        "target": _shown(found.target),
    }


def difference(table: ReplayTable, found: Difference) -> dict[str, Any]:
    """Both verdicts, and the fields of both forwarded packets."""
    from kdht.replay import dissect

    one, other = found.judgements
    fields = [
        {(each.layer, each.name): each.value for each in dissect.fields(data)}
        for data in (one.data, other.data)
    ]
    return {
        "type": "difference",
        **frame(found.frame),
        "now": found.now,
        "what": found.what,
        "packet": found.packet.hex(),
        "names": list(found.names),
        "verdicts": [judgement(table, found.packet, each) for each in found.judgements],
        "seen": seen(found.seen),
        "fields": [
            {"layer": key[0], "field": key[1], "values": [each.get(key) for each in fields]}
            for key in dict.fromkeys([*fields[0], *fields[1]])
        ],
    }


def tally(counts: dict[Reason | None, int]) -> list[dict[str, Any]]:
    """How many packets had each reason; a verdict of None: they could not be run."""
    return [
        {
            "verdict": VERDICT_OF[reason].name if reason is not None else None,
            "reason": reason.name if reason is not None else None,
            "packets": count,
        }
        for reason, count in sorted(counts.items(), key=lambda item: -1 if item[0] is None else item[0])
    ]
