"""The UDP tracker: any bytes as a client's request, and any bytes as the payloads of a swarm's members.

Invariant: a request parses, or is BadPacket; nothing else is raised. What parses has all its fields in bounds, and packs to the bytes
it came from. The answer to a connect is no longer than the request. A peer in an answer was in a payload, and is never the asker.

    | choices | length of the payloads | payloads of 10 bytes, or 22 with IPV6 ... | request |
"""

import struct

from fuzz.targets.events import Reader
from kdht.errors import BadPacket
from kdht.faces.tracker import messages
from kdht.faces.tracker.messages import Announce, Connect, Scrape, Swarm
from kdht.faces.tracker.swarms import Found, chosen, compact, found
from kdht.wire import Address
from kdht.wire.endpoints import Endpoint
from kdht.wire.sets import Member, MembersPage

IPV6, LARGE = 1, 2
"""Choices: the family of the swarm; it has more members than the answer."""
ASKER = {False: Address.of("10.0.0.7", 6881), True: Address.of("fd00::7", 6881)}
SIZE = {False: 10, True: 22}
"""Of an endpoint's payload without a text."""


def one(data: bytes) -> None:
    reader = Reader(data)
    choices = reader.byte()
    payloads = reader.bytes(reader.byte())
    swarm = swarm_of(payloads, choices)
    request = reader.bytes(messages.MAX_REQUEST + 1)
    try:
        parsed = messages.parse(request)
    except BadPacket:
        return
    if isinstance(parsed, Connect):
        assert request[:16] == struct.pack(">QII", messages.MAGIC, messages.CONNECT, parsed.transaction)
        assert len(messages.pack_connected(parsed.transaction, 2**64 - 1)) <= len(request)
    elif isinstance(parsed, Announce):
        check_announce(request, parsed, swarm, is_ipv6=bool(choices & IPV6))
    else:
        check_scrape(request, parsed)


def swarm_of(payloads: bytes, choices: int) -> Found:
    """What the cluster may say: whoever has the right to announce chooses the payloads."""
    is_ipv6 = bool(choices & IPV6)
    size = SIZE[is_ipv6]
    members = [Member(at, 9, payloads[at : at + size]) for at in range(0, len(payloads), size)]
    page = MembersPage(len(members) * 100 if choices & LARGE else len(members), 0, members)
    swarm = found(page, is_ipv4=not is_ipv6)
    assert 0 <= swarm.swarm.seeders + swarm.swarm.leechers <= page.total + 1, "each is rounded"
    assert len(swarm.seeds) + len(swarm.leechers) <= len(members)
    assert all(payload_has(peer, payloads) for peer in swarm.seeds + swarm.leechers)
    return swarm


def payload_has(peer: bytes, payloads: bytes) -> bool:
    # In a payload the port stands before the address.
    return peer[-2:] + peer[:-2] in payloads


def check_announce(request: bytes, parsed: Announce, swarm: Found, *, is_ipv6: bool) -> None:
    assert request[16:36] == parsed.info_hash
    assert (len(parsed.info_hash), 0 < parsed.port < 65536, parsed.event in range(4)) == (20, True, True)
    peers = chosen(swarm, ASKER[is_ipv6], parsed.wanted, is_seed=parsed.left == 0)
    assert len(peers) <= parsed.wanted
    assert compact(ASKER[is_ipv6]) not in peers
    reply = messages.pack_announced(parsed.transaction, 900, swarm.swarm, peers)
    assert len(reply) == 20 + (18 if is_ipv6 else 6) * len(peers)


def check_scrape(request: bytes, parsed: Scrape) -> None:
    assert 0 < len(parsed.info_hashes) <= messages.MAX_SCRAPED
    assert request[16:].startswith(b"".join(parsed.info_hashes))
    reply = messages.pack_scraped(parsed.transaction, [Swarm(1, 2)] * len(parsed.info_hashes))
    assert len(reply) <= len(request)


def seeds():
    peers = b"".join(Endpoint(Address.of(f"10.0.0.{each}", 6881), each % 2).pack() for each in range(5, 9))
    six = b"".join(Endpoint(Address.of(f"fd00::{each}", 6881), each % 2).pack() for each in range(5, 9))
    info_hash = bytes(range(20))
    announce = struct.pack(">QII20s20sQQQIIIIH", 5, 1, 7, info_hash, bytes(20), 0, 1, 0, 2, 0, 9, 50, 6881)
    requests = {
        "connect": struct.pack(">QII", messages.MAGIC, 0, 7),
        "announce": announce,
        "options": announce + b"\x02\x09/announce",
        "scrape": struct.pack(">QII", 5, 2, 7) + info_hash * 3,
        "error": struct.pack(">QII", 5, 3, 7),
    }
    for name, request in requests.items():
        yield name, bytes([0, len(peers)]) + peers + request
        yield f"{name}-6", bytes([IPV6 | LARGE, len(six)]) + six + request
