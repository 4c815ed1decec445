"""The causes of a verdict: the packet's fields, tags and candidates, and the deciding rule.

The verdict is the core's. The checks beside it are made here, one by one, from the wire modules
and the table, so that all are shown and not only the first failure.
"""

from collections.abc import Iterator
from typing import Any

from kdht._routing import common_bits
from kdht.errors import BadPacket
from kdht.replay import dissect, plain
from kdht.replay._engine import Judgement
from kdht.replay.failed import failed_check
from kdht.replay.packets import take_apart
from kdht.replay.tables import ReplayTable
from kdht.wire import HEADER, OFFSET, body_tag, header_tag, valid_cookie
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Reason
from kdht.wire.rights import Grant, split_proof

WHY = {
    Reason.NOT_OURS: "It is not UDP to an own address and port with kdht's magic, so it is left alone.",
    Reason.OWNER: "No contact is closer to the key than this node, so this node owns it.",
    Reason.ATTEMPT_ENDS: "Attempt {attempt} leaves out that many closer contacts, and there are not more.",
    Reason.TRACE_ENDS: "A TRACE is answered where its hops end.",
    Reason.CONTROL: "Control messages are the daemon's.",
    Reason.FAMILY: "The way on is over the other IP version, which only the socket can take.",
    Reason.NOT_READY: "The node's state was not published yet.",
    Reason.ENTERED: "A client's request: the entry node fills in where it came from, tags it and sends it on.",
    Reason.NEXT_HOP: "A member's request: it goes on to the closest contact, one hop fewer left.",
    Reason.RELAYED: "A reply for a client of this entry node: stripped of what is the cluster's, and sent on.",
    Reason.TRUNCATED: "The UDP payload is shorter than a header of {header_len} bytes.",
    Reason.BAD_MAGIC: "The message does not begin with the magic.",
    Reason.BAD_VERSION: "Only version {version} is known.",
    Reason.BAD_LENGTH: "The body length is not what follows the header.",
    Reason.TOO_LONG: "A body has at most {max_body} bytes.",
    Reason.BAD_FLAGS: "Flags or reserved bytes that nobody may set are set.",
    Reason.BAD_OP: "There is no such op.",
    Reason.FORGED_ORIGIN: "A client (no FORWARDED flag) filled in what is the entry node's.",
    Reason.BAD_EPOCH: "This node has no key of the message's epoch.",
    Reason.BAD_TAG: "The header was not tagged under this cluster's key, or was changed on the way.",
    Reason.BAD_BODY_TAG: "The header is right, but the body is not the one that was tagged.",
    Reason.STALE: "Its time is further than {window} s from now.",
    Reason.HOP_LIMIT: "No hops are left.",
    Reason.NOT_ENTRY: "A reply whose entry node is another one.",
    Reason.BAD_ADDRESS: "The answer would go to an address that no single host can have.",
    Reason.BAD_IP: "IP's or UDP's lengths cannot be.",
    Reason.FRAGMENT: "A fragment: no message is so long that it needs any.",
    Reason.IP_OPTIONS: "IP options: no sender of ours makes them.",
    Reason.EXT_HEADER: "An IPv6 extension header: no sender of ours makes them.",
    Reason.NO_CHECKSUM: "UDP over IPv6 has a checksum.",
    Reason.NO_NEIGHBOUR: "The kernel does not know the next hop's link address yet.",
    Reason.NO_ROUTE: "The kernel would not send it there.",
    Reason.MARTIAN: "Nothing can come from its source: no single host has it, or this one does.",
    Reason.BAD_CHECKSUM: "The checksum of the IPv4 header is wrong.",
    Reason.PARTIAL: "Its checksum is left to a device, and in generic mode it would be completed twice.",
    Reason.RATE_LIMITED: "Its sender has sent more than it may.",
    Reason.NEEDS_COOKIE: "Only clients with a cookie for their address may send this: the answer is COOKIE_NEEDED.",
    Reason.NOT_ALLOWED: "Requests of this kind are not allowed from its address.",
}


def explained(table: ReplayTable, packet: bytes, now: int, judgement: Judgement) -> dict[str, Any]:
    """Everything about one packet, as plain data."""
    message = _message(table, packet)
    return {
        "type": "explanation",
        "now": now,
        "verdict": plain.judgement(table, packet, judgement, changes=True),
        "why": list(_why(table, packet, message, now, judgement)),
        "fields": [each._asdict() for each in dissect.fields(packet)],
        "checks": list(_checks(table, packet, message, now)),
        "candidates": _candidates(table, message) if message else [],
    }


def _message(table: ReplayTable, packet: bytes) -> bytes | None:
    """The whole header and the body, if there is one with our magic."""
    found = take_apart(packet)
    magic = shared.MAGIC.to_bytes(4, "big")
    if found is None or found.message[:4] != magic or len(found.message) < shared.HEADER_LEN:
        return None
    return found.message


def header_fields(message: bytes) -> dict[str, Any]:
    """The header's fields by name."""
    return dict(zip((name for name, _, _ in shared.LAYOUT), HEADER.unpack_from(message), strict=True))


def _why(
    table: ReplayTable, packet: bytes, message: bytes | None, now: int, judgement: Judgement
) -> Iterator[str]:
    if judgement.reason is None:
        yield str(judgement.unable)
        return
    attempt = message[OFFSET["attempt"]] if message else 0
    yield WHY[judgement.reason].format(
        attempt=attempt,
        header_len=shared.HEADER_LEN,
        version=shared.VERSION,
        max_body=shared.MAX_BODY,
        window=table.window,
    )
    if failed := failed_check(table, packet, now, judgement.reason):
        yield f"The check that failed: {failed}."


def _checks(table: ReplayTable, packet: bytes, message: bytes | None, now: int) -> Iterator[dict[str, str]]:
    """Each check with its finding, even after one that ended the verdict."""
    found = take_apart(packet)
    if found is None:
        yield {"check": "packet", "found": "no plain, whole UDP datagram in IPv4 or IPv6"}
        return
    yield {"check": "UDP checksum", "found": found.checksum}
    if message is None:
        yield {"check": "message", "found": "no whole header behind our magic"}
        return
    header = header_fields(message)
    yield {"check": "from", "found": "a member" if header["flags"] & Flag.FORWARDED else "a client"}
    if header["flags"] & Flag.DIRECT:
        yield {"check": "answer", "found": "direct: from any node's address"}
    if header["flags"] & Flag.PROVEN:
        yield {"check": "proof", "found": _proof(message)}
    if header["flags"] & Flag.FORWARDED:
        yield from _member_checks(table, message, header, now)
    elif header["cookie"]:
        good = valid_cookie(header["cookie"], table.keys[0].cookie, found.source.ip, now)
        yield {"check": "cookie", "found": "right" if good else f"not {found.source.host}'s at this time"}


def _proof(message: bytes) -> str:
    """What a proof says. Whether its MAC is right, only a node with the access secret can tell."""
    try:
        _, proof = split_proof(message[shared.HEADER_LEN :])
        grant = Grant.parse(proof.grant)
    except BadPacket as bad:
        return f"none can be read: {bad}"
    scope = f"scope {grant.scope:016x}" if grant.scope else "every key"
    ends = f"until {grant.expiry}" if grant.expiry else "without end"
    rights = str(grant.rights.name or "none").replace("|", ", ")
    return f"holder {grant.holder:016x}, {rights}, {scope}, {ends}, seq {proof.seq}; the nodes that it ends at check its MAC"


def _member_checks(
    table: ReplayTable, message: bytes, header: dict[str, Any], now: int
) -> Iterator[dict[str, str]]:
    key = next((key for key in table.keys if key.epoch == header["epoch"]), None)
    if key is None:
        epochs = ", ".join(str(key.epoch) for key in table.keys)
        yield {"check": "epoch", "found": f"{header['epoch']}, but there are keys of {epochs} only"}
        return
    for name, right in (("header_tag", header_tag(message, key)), ("body_tag", body_tag(message, key))):
        said = header[name]
        text = "right" if said == right else f"wrong: {said:016x}, not {right:016x}"
        yield {"check": name.replace("_", " "), "found": text}
    age = (now - header["time"] + 2**31) % 2**32 - 2**31
    yield {"check": "age", "found": f"{age} s, at most {table.window} s either way"}


def _candidates(table: ReplayTable, message: bytes, count: int = 8) -> list[dict[str, Any]]:
    """This node and the contacts nearest to the key, nearest first, with their XOR distances."""
    key = header_fields(message)["key"]
    rows = [(table.self_id, "this node"), *((each.id, str(each.address)) for each in table.contacts)]
    wanted = int.from_bytes(key, "big")
    rows.sort(key=lambda row: int.from_bytes(row[0], "big") ^ wanted)
    place = next(number for number, row in enumerate(rows) if row[0] == table.self_id)
    return [
        {
            "rank": rank,
            "node": node.hex(),
            "address": address,
            "distance": f"{int.from_bytes(node, 'big') ^ wanted:040x}"[:16],
            "bits shared": common_bits(node, key),
        }
        for rank, (node, address) in enumerate(rows[: max(count, place + 1)])
    ]
