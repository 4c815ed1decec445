"""The oracle of answers to GETs: plain, slow, and by docs/protocol.md. Beside the core's and the program's."""

import math
import struct
from typing import NamedTuple

from kdht.replay.oracle import (
    SlowNode,
    body_tag,
    header_tag,
    is_loopback,
    read_header,
    version_of,
    write_header,
)
from kdht.wire import Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Status


class Answer(NamedTuple):
    """A reply, and where it goes. `source` is None for the node's usual address."""

    data: bytes
    target: Address
    source: Address | None


def body_of(version: int, expiry: int, flags: int, value: bytes, now: float) -> bytes:
    left = min(max(expiry - math.ceil(now), 1), 0xFFFFFFFF) if expiry else 0
    return struct.pack(">QII", version, left, flags) + value


def answer(slow: SlowNode, request: bytes, source: Address, target: Address, body: bytes, now: int) -> Answer:
    """The reply OK to a request that ends here; the body fits."""
    header = read_header(request)
    settings = slow.settings
    entry, client = Address(header.entry_ip, header.entry_port), Address(header.client_ip, header.client_port)
    if not header.flags & Flag.FORWARDED:
        way = (source, target)
    elif header.entry_port == settings.port and header.entry_ip in settings.own:
        way = (client, entry)
    elif header.flags & Flag.DIRECT and reaches(slow, client.ip):
        way = (client, None)
    else:
        way = (entry, None)
    straight = way[0] != entry or header.flags & Flag.FORWARDED == 0
    straight = straight or way == (client, entry)
    header.flags = Flag.REPLY | Flag.FORWARDED
    if not 0 < header.hops <= settings.hop_limit:
        header.hops = settings.hop_limit
    header.status, header.body_len = Status.OK, len(body)
    header.max_reply = header.reserved2 = header.cookie = header.body_tag = header.header_tag = 0
    if straight:
        header.time = header.epoch = header.reserved1 = header.client_port = header.entry_port = 0
        header.client_ip = header.entry_ip = bytes(16)
        header.cookie = slow.cookie(way[0].ip, now >> shared.COOKIE_SLOT_BITS)
    else:
        header.time = now
        header.epoch, key = settings.keys[0]
        if not settings.untagged:
            header.body_tag = body_tag(key, header, body)
            header.header_tag = header_tag(key, header)
    return Answer(write_header(header, body), *way)


def reaches(slow: SlowNode, ip: bytes) -> bool:
    """Whether the node may answer a client that asked another node."""
    source = slow.settings.source4 if version_of(ip) == 4 else slow.settings.source6
    if not source:
        return False
    local = ip[12:14] == b"\xa9\xfe" if version_of(ip) == 4 else ip[0] == 0xFE and ip[1] >> 6 == 2
    return not local and is_loopback(source) == is_loopback(ip)
