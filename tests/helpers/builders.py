"""Nodes, messages and IP packets for the tests of the routing core.

All that is random comes from the caller's `random.Random`. Packets are put together by
hand for speed; `scapy_packet` makes the same ones, and a test holds the two together.
"""

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from typing import NamedTuple

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from kdht._routing import Core
from kdht.replay import oracle_packets
from kdht.replay.oracle import (
    NAMES,
    OracleSettings,
    SlowNode,
    SlowTable,
    common_bits,
    read_header,
    version_of,
    write_header,
)
from kdht.wire import OFFSET, Address, Contact, keys
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag

NOW = 1_800_000_000
KEYS = [keys.derive(2, b"the second epoch"), keys.derive(1, b"the first epoch.")]
SIZE = {name: size for name, _, size in shared.LAYOUT}

# --- Nodes -----------------------------------------------------------------------------


class Node(NamedTuple):
    """The core and its oracle, kept in the same state."""

    core: Core
    slow: SlowNode

    @property
    def settings(self) -> OracleSettings:
        return self.slow.settings

    def set_bucket(self, index: int, contacts: list[Contact]) -> None:
        self.core.set_bucket(index, contacts)
        self.slow.table.set_bucket(index, contacts)

    def learn(self, contacts: Iterable[Contact]) -> None:
        """Fill the table with the first K contacts offered for each bucket."""
        for index, held in buckets_of(self.settings.self_id, contacts).items():
            self.set_bucket(index, held)

    def cookie(self, client: Address, now: int = NOW) -> int:
        return self.slow.cookie(client.ip, now >> shared.COOKIE_SLOT_BITS)


def make_node(settings: OracleSettings, contacts: Iterable[Contact] = ()) -> Node:
    node = Node(Core(), SlowNode(settings, SlowTable(settings.self_id)))
    node.core.configure(**asdict(settings))
    node.learn(contacts)
    return node


def usual_settings(**changes: object) -> OracleSettings:
    """Two addresses, two key epochs (2 signs), cookies off."""
    usual = {
        "self_id": bytes(shared.ID_LEN),
        "port": shared.PORT,
        "own": [packed("10.0.0.1"), packed("fd00::1")],
        "source4": packed("10.0.0.1"),
        "source6": packed("fd00::1"),
        "keys": [(key.epoch, key.tag) for key in KEYS],
        "cookie_key": b"a key of cookies",
        "cookies": False,
    }
    return OracleSettings(**{**usual, **changes})


def packed(host: str) -> bytes:
    return Address.of(host, 0).ip


def buckets_of(self_id: bytes, contacts: Iterable[Contact]) -> dict[int, list[Contact]]:
    """Contacts by bucket, at most K in each: those that were offered first."""
    buckets: dict[int, list[Contact]] = {}
    for contact in contacts:
        held = buckets.setdefault(common_bits(self_id, contact.id), [])
        if len(held) < shared.K:
            held.append(contact)
    return buckets


# --- IDs and contacts ------------------------------------------------------------------


def id_sharing(rng: random.Random, other: bytes, bits: int) -> bytes:
    """A random ID that shares exactly `bits` leading bits, 0 to 159, with `other`."""
    rest = shared.ID_BITS - bits
    difference = 1 << (rest - 1) | rng.getrandbits(rest - 1)
    return (int.from_bytes(other, "big") ^ difference).to_bytes(shared.ID_LEN, "big")


def random_ip(rng: random.Random, version: int) -> bytes:
    return packed(f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" if version == 4
                  else f"fd00::{rng.randrange(1, 1 << 16):x}")  # fmt: skip


def random_contact(rng: random.Random, contact_id: bytes, versions: Sequence[int] = (4, 6)) -> Contact:
    return Contact(contact_id, random_ip(rng, rng.choice(versions)), rng.randrange(1, 1 << 16))


def random_table(
    rng: random.Random, self_id: bytes, size: int, versions: Sequence[int] = (4, 6)
) -> list[Contact]:
    """Half of the contacts anywhere, half near this node, where the deep buckets are."""
    near = [id_sharing(rng, self_id, rng.randrange(shared.ID_BITS)) for _ in range(size // 2)]
    ids = dict.fromkeys([*near, *(rng.randbytes(shared.ID_LEN) for _ in range(size - size // 2))])
    return [random_contact(rng, contact_id, versions) for contact_id in ids if contact_id != self_id]


# --- Messages --------------------------------------------------------------------------


def request(**fields: object) -> bytearray:
    """A client's GET with any header field or `body` changed; the body length is right unless given."""
    return message_with({"op": shared.Op.GET, "request_id": 7, "key": b"\xff" * shared.ID_LEN}, fields)


def forwarded(signer: tuple[int, bytes], /, **fields: object) -> bytearray:
    """The same as it comes from a member: filled in, and tagged by `signer` (epoch and tag key)."""
    client, entry = Address.of("10.0.0.99", 40000), Address.of("10.0.0.1", shared.PORT)
    usual = {
        "op": shared.Op.GET, "request_id": 7, "key": b"\xff" * shared.ID_LEN, "flags": Flag.FORWARDED,
        "hops": 9, "time": NOW, "epoch": signer[0], "client_ip": client.ip, "client_port": client.port,
        "entry_ip": entry.ip, "entry_port": entry.port, "max_reply": 1120,
    }  # fmt: skip
    data = message_with(usual, fields)
    tag(data, signer[1])
    for name in ("body_tag", "header_tag"):
        if name in fields:
            set_field(data, name, fields[name])
    return data


def message_with(*changes: dict[str, object]) -> bytearray:
    body = b""
    header = read_header(bytes(shared.HEADER_LEN))
    header.magic, header.version = shared.MAGIC, shared.VERSION
    for change in changes:
        body = change.get("body", body)
        header.body_len = len(body)
        vars(header).update({name: value for name, value in change.items() if name in NAMES})
    return bytearray(write_header(header, body))


def set_field(data: bytearray, name: str, value: int | bytes) -> None:
    size = SIZE[name]
    raw = value if isinstance(value, bytes) else (value % (1 << 8 * size)).to_bytes(size, "big")
    data[OFFSET[name] : OFFSET[name] + size] = raw


def get_field(data: bytes, name: str) -> int:
    return int.from_bytes(data[OFFSET[name] : OFFSET[name] + SIZE[name]], "big")


def tag(data: bytearray, key: bytes) -> None:
    """Give a message both tags, and change nothing else."""
    set_field(data, "body_tag", shared.body_tag(key, data))
    set_field(data, "header_tag", shared.header_tag(key, data))


# --- Packets ---------------------------------------------------------------------------

CHECKSUMS = ("right", "zero", "partial", "wrong")


def udp(payload: bytes, source: Address, target: Address, checksum: str = "right") -> bytes:
    """A UDP datagram; "partial" is a checksum field that a device was to complete."""
    datagram = struct.pack(">HHHH", source.port, target.port, 8 + len(payload), 0) + payload
    ips = [oracle_packets.ip_of(address, version_of(source.ip)) for address in (source, target)]
    value = {
        "right": lambda: oracle_packets.udp_checksum(*ips, datagram),
        "zero": lambda: 0,
        "partial": lambda: oracle_packets.folded(oracle_packets.pseudo_sum(*ips, len(datagram))),
        "wrong": lambda: oracle_packets.udp_checksum(*ips, datagram) ^ 0x0102,
    }[checksum]()
    return datagram[:6] + value.to_bytes(2, "big") + datagram[8:]


def packet(
    payload: bytes, source: Address, target: Address, checksum: str = "right", options: bytes = b""
) -> bytearray:
    """A whole IP packet of the family of `source`; `options` only in IPv4, a multiple of 4 bytes."""
    datagram = udp(payload, source, target, checksum)
    if version_of(source.ip) == 6:
        return ipv6(datagram, source, target)
    header = bytearray(20) + options
    struct.pack_into(
        ">BBHHHBB", header, 0, 0x40 + len(header) // 4, 0, len(header) + len(datagram), 1, 0, 9, 17
    )
    header[12:20] = source.ip[12:] + target.ip[12:]
    complete_ipv4(header)
    return header + datagram


def ipv6(content: bytes, source: Address, target: Address, next_header: int = 17) -> bytearray:
    header = struct.pack(">IHBB", 6 << 28, len(content), next_header, 9) + source.ip + target.ip
    return bytearray(header + content)


def complete_ipv4(header: bytearray) -> None:
    """Put the right checksum into an IPv4 header."""
    header[10:12] = b"\0\0"
    total = sum(oracle_packets.words(bytes(header)))
    header[10:12] = oracle_packets.complement(oracle_packets.folded(total)).to_bytes(2, "big")


def scapy_packet(payload: bytes, source: Address, target: Address, **ip_fields: object) -> IP | IPv6:
    """The same, as scapy builds it: the right checksums, a TTL of 9."""
    ends = {"src": str(ip_address(source.host)), "dst": str(ip_address(target.host))}
    ip = IP(**{**ends, "ttl": 9, **ip_fields}) if source.is_ipv4 else IPv6(**{**ends, "hlim": 9, **ip_fields})
    return ip / UDP(sport=source.port, dport=target.port) / Raw(bytes(payload))


def checksums_by_scapy(packet: bytes) -> bytes:
    """The packet with its IP and UDP checksums computed anew by scapy."""
    parsed = (IP if packet[0] >> 4 == 4 else IPv6)(bytes(packet))
    if IP in parsed:
        del parsed[IP].chksum
    del parsed[UDP].chksum
    return bytes(parsed)
