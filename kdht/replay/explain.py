"""The causes of a verdict: the packet's fields, tags and candidates, and the deciding rule.

The verdict is the core's. The checks beside it are made here, one by one, from the wire modules
and the table, so that all are shown and not only the first failure.
"""

from collections.abc import Iterator
from typing import Any

from kdht._routing import common_bits
from kdht.errors import BadPacket
from kdht.program.reasons import WHY
from kdht.replay import dissect, plain
from kdht.replay._engine import Judgement
from kdht.replay.failed import failed_check
from kdht.replay.packets import take_apart
from kdht.replay.tables import ReplayTable
from kdht.wire import HEADER, OFFSET, body_tag, header_tag, valid_cookie
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag
from kdht.wire.rights import Grant, split_proof


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
            "distance": f"{int.from_bytes(node, 'big') ^ wanted:040x}",
            "bits shared": common_bits(node, key),
        }
        for rank, (node, address) in enumerate(rows[: max(count, place + 1)])
    ]
