"""Random traffic for one node: right messages, deformed ones, and what an attacker may send.

Each choice is from a table of (weight, maker), so the mix can be read off. Deformed
messages are mostly tagged again, so that they get past the tags to the checks behind.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import builders
from builders import NOW, Node, packed, set_field

from kdht.replay.oracle import OracleSettings, version_of
from kdht.wire import OFFSET, Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op

T = TypeVar("T")
Weighted = Sequence[tuple[int, T]]

GOOD_HOSTS = [
    packed(host) for host in ("10.0.0.99", "192.0.2.7", "1.0.0.0", "240.0.0.1", "2001:db8::9", "fe80::1")
]
HOSTS = [
    packed(host)
    for host in (
        "127.0.0.1", "0.0.0.0", "0.1.2.3", "223.255.255.255", "224.0.0.1", "239.255.255.255",
        "255.255.255.254", "255.255.255.255", "::1", "::", "ff02::1", "ff0e::5", "::10.0.0.1",
    )
]  # fmt: skip
OWN = [packed(host) for host in ("10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1", "fd00::2", "2001:db8::1")]
FORGED_KEY = b"not the cluster's".ljust(shared.TAG_KEY_LEN, b".")
WINDOW = 30
FULL = 50 * shared.ID_BITS
"""Contacts that fill every bucket which can have K."""


def pick(rng: random.Random, choices: Weighted[T]) -> T:
    return rng.choices([maker for _, maker in choices], [weight for weight, _ in choices])[0]


class Datagram(NamedTuple):
    payload: bytearray
    source: Address
    target: Address


# --- Nodes -----------------------------------------------------------------------------


def random_settings(rng: random.Random) -> OracleSettings:
    own = rng.sample(OWN, rng.choice((1, 2, 5, len(OWN), len(OWN))))
    by_version = {version: [ip for ip in own if version_of(ip) == version] for version in (4, 6)}
    keys = [(epoch, rng.randbytes(shared.TAG_KEY_LEN)) for epoch in rng.sample(range(256), rng.randint(1, 2))]
    return OracleSettings(
        self_id=rng.randbytes(shared.ID_LEN),
        port=rng.choice((shared.PORT, rng.randrange(1, 1 << 16))),
        own=own,
        source4=rng.choice(by_version[4]) if by_version[4] else None,
        source6=rng.choice(by_version[6]) if by_version[6] else None,
        keys=keys,
        cookie_key=rng.randbytes(16),
        cookies=rng.random() < 0.6,
        window=rng.choice((WINDOW, WINDOW, 0, shared.REPLAY_WINDOW)),
        hop_limit=rng.choice((shared.HOP_LIMIT, 1, 2, 255)),
        untagged=rng.random() < 0.1,
        write_cookie=rng.random() < 0.3,
        prefixes=random_prefixes(rng) if rng.random() < 0.3 else None,
    )


def random_prefixes(rng: random.Random) -> list[tuple[bytes, int, int]]:
    """Rights of prefixes of any length around the usual senders, and mostly of everybody else."""
    everybody = {(bytes(16), 0): 3} if rng.random() < 0.8 else {}
    around = {
        (beginning(ip, bits), bits): rng.randrange(4)
        for ip in GOOD_HOSTS + HOSTS
        if (bits := rng.randint(1, 128)) and rng.random() < 0.3
    }
    return [(ip, bits, rights) for (ip, bits), rights in {**everybody, **around}.items()]


def beginning(ip: bytes, bits: int) -> bytes:
    """The address with zeros behind so many bits."""
    return (int.from_bytes(ip, "big") >> (128 - bits) << (128 - bits)).to_bytes(16, "big")


def random_node(rng: random.Random) -> Node:
    settings = random_settings(rng)
    size = rng.choice((*(0, 2, 10, 40, 80, 150) * 4, FULL))
    versions = rng.choice(((4, 6), [version_of(ip) for ip in settings.own]))
    return builders.make_node(settings, builders.random_table(rng, settings.self_id, size, versions))


# --- Messages --------------------------------------------------------------------------


def random_host(rng: random.Random, version: int | None = None) -> bytes:
    """Mostly one that may be answered; of an IP version, if given."""
    hosts = GOOD_HOSTS if rng.random() < 0.9 else HOSTS + OWN
    return rng.choice([ip for ip in hosts if version in (None, version_of(ip))])


def random_port(rng: random.Random) -> int:
    return pick(rng, [(1, 0), (1, 1), (1, 65535), (20, 40000)])


def random_key(rng: random.Random, node: Node) -> bytes:
    self_id = node.settings.self_id
    near = builders.id_sharing(rng, self_id, rng.randrange(shared.ID_BITS))
    return pick(rng, [(8, rng.randbytes(shared.ID_LEN)), (4, near), (1, self_id)])


def common_fields(rng: random.Random, node: Node) -> dict[str, object]:
    size = rng.choice((0, 0, 1, 7, 8, 100, 101, rng.randint(0, shared.MAX_BODY), shared.MAX_BODY))
    return {
        "op": rng.choice((Op.GET, Op.GET, Op.PUT, Op.DELETE, Op.TRACE, Op.QUORUM_GET, Op.WATCH)),
        "key": random_key(rng, node),
        "request_id": rng.getrandbits(64),
        "hops": rng.choice((0, 0, 1, 2, 3, 16, 17, 255)),
        "attempt": rng.choice((0, 0, 0, 0, 0, 0, 1, 2, 5, 20, 255)),
        "max_reply": rng.choice((0, 1, 50, shared.MAX_BODY, shared.MAX_BODY + 1, 0xFFFF)),
        "body": rng.randbytes(size),
    }


def direct(rng: random.Random) -> Flag:
    """Whether a request takes its answer from any node."""
    return rng.choice((Flag(0), Flag(0), Flag.DIRECT, Flag.PROVEN))


def client_request(rng: random.Random, node: Node, source: Address) -> bytearray:
    slot = 1 << shared.COOKIE_SLOT_BITS
    made = rng.choice((NOW, NOW, NOW - slot, NOW - 2 * slot, NOW + slot))
    cookie = rng.choice((0, node.cookie(source, made), node.cookie(source, made), rng.getrandbits(64)))
    return builders.request(**common_fields(rng, node), cookie=cookie, flags=direct(rng))


def member_fields(rng: random.Random, node: Node, source: Address) -> dict[str, object]:
    """Fields of a member's message; its addresses are mostly of one IP version."""
    settings = node.settings
    version = version_of(source.ip) if rng.random() < 0.8 else None
    own = [ip for ip in settings.own if version in (None, version_of(ip))] or settings.own
    window = settings.window
    edges = (window, -window, window + 1, -window - 1, 1 << 31, 12345)
    return {
        **common_fields(rng, node),
        "hops": pick(rng, [(1, 0), (2, 1), (4, 2), (20, 9), (1, 255)]),
        "time": NOW + (rng.choice(edges) if rng.random() < 0.15 else 0),
        "client_ip": random_host(rng, version),
        "client_port": random_port(rng),
        "entry_ip": rng.choice(own) if rng.random() < 0.9 else random_host(rng),
        "entry_port": settings.port ^ (rng.random() < 0.1),
        "cookie": rng.choice((0, rng.getrandbits(64))),
    }


def tag_key(rng: random.Random, node: Node) -> tuple[int, bytes]:
    """Mostly one that the node accepts."""
    epoch, key = rng.choice(node.settings.keys)
    return pick(rng, [(18, (epoch, key)), (1, (epoch, FORGED_KEY)), (1, (epoch ^ 1, key))])


def member_request(rng: random.Random, node: Node, source: Address) -> bytearray:
    flags = Flag.FORWARDED | direct(rng)
    return builders.forwarded(tag_key(rng, node), **member_fields(rng, node, source), flags=flags)


def member_reply(rng: random.Random, node: Node, source: Address) -> bytearray:
    fields = {
        **member_fields(rng, node, source),
        "status": rng.choice((0, 1, 3, 8)),
        "flags": Flag.REPLY | Flag.FORWARDED,
    }
    return builders.forwarded(tag_key(rng, node), **fields)


def control(rng: random.Random, node: Node, source: Address) -> bytearray:
    fields = {
        **member_fields(rng, node, source),
        "op": rng.choice((Op.PING, Op.FIND_NODE)),
        "flags": rng.choice((Flag.FORWARDED, Flag.FORWARDED | Flag.REPLY)),
    }
    return builders.forwarded(tag_key(rng, node), **fields)


def noise(rng: random.Random, node: Node, source: Address) -> bytearray:
    """Any bytes behind our magic."""
    start = shared.MAGIC.to_bytes(4, "big") + rng.choice((b"", bytes([shared.VERSION])))
    return bytearray(start + rng.randbytes(rng.choice((0, 1, 100, 107, 108, 200, 1300))))


MESSAGES: Weighted[Callable[[random.Random, Node, Address], bytearray]] = [
    (40, client_request),
    (25, member_request),
    (25, member_reply),
    (8, control),
    (2, noise),
]

# --- Deformed messages -----------------------------------------------------------------


def flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def change_field(rng: random.Random, data: bytearray) -> None:
    name, _, size = rng.choice(shared.LAYOUT)
    if len(data) >= shared.HEADER_LEN:
        top = 1 << 8 * size
        set_field(data, name, rng.choice((0, 1, 2, 16, top // 2, top - 1, rng.randrange(top))))


def change_flags(rng: random.Random, data: bytearray) -> None:
    if len(data) >= shared.HEADER_LEN:
        data[OFFSET["flags"]] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x83, rng.randrange(256)))


def change_op(rng: random.Random, data: bytearray) -> None:
    if len(data) >= shared.HEADER_LEN:
        data[OFFSET["op"]] = rng.choice((0, 1, 4, 5, 0x0F, 0x10, 0x11, 0x12, 0xFF))


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def lengthen(rng: random.Random, data: bytearray) -> None:
    data.extend(rng.randbytes(rng.choice((1, 8, 300, shared.MAX_DATAGRAM))))


def resize_body(rng: random.Random, data: bytearray) -> None:
    """Around the largest body, with a body length that may be right."""
    if len(data) >= shared.HEADER_LEN:
        size = shared.MAX_BODY + rng.choice((-1, 0, 1))
        data[shared.HEADER_LEN :] = rng.randbytes(size)
        set_field(data, "body_len", size + rng.choice((0, 0, 1)))


DEFORMATIONS: Weighted[Callable[[random.Random, bytearray], None]] = [
    (4, flip_bit),
    (6, change_field),
    (3, change_flags),
    (3, change_op),
    (1, cut),
    (1, lengthen),
    (1, resize_body),
]


def deform(rng: random.Random, node: Node, data: bytearray) -> None:
    pick(rng, DEFORMATIONS)(rng, data)
    if len(data) >= shared.HEADER_LEN and data[OFFSET["flags"]] & Flag.FORWARDED and rng.random() < 0.8:
        keys = dict(node.settings.keys)
        builders.tag(data, keys.get(data[OFFSET["epoch"]], FORGED_KEY))
        if len(data) > shared.HEADER_LEN and rng.random() < 0.3:
            data[-1] ^= 1  # under a right header tag


def random_datagram(rng: random.Random, node: Node, version: int | None = None) -> Datagram:
    """A message on its way to an own address; to any family, or to one."""
    own = [ip for ip in node.settings.own if version in (None, version_of(ip))]
    target = rng.choice(own or [ip for ip in OWN if version_of(ip) == version])
    source = Address(random_host(rng, version), random_port(rng))
    payload = pick(rng, MESSAGES)(rng, node, source)
    if rng.random() < 0.25:
        deform(rng, node, payload)
    return Datagram(payload, source, Address(target, node.settings.port))
