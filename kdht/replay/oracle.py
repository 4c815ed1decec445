"""The routing core's oracle: the same rules, written to be obvious and for nothing else.

Contacts are one plain list, sorted by XOR distance at each question. A check that ends a
verdict raises `UnchangedEnd`. The checks have the order of docs/design/routing.md. Whole packets are
in oracle_packets.py. Written from the documents, not from the core: where the two differ,
one of them is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

from kdht.wire import HEADER, NO_IP, Address, Contact
from kdht.wire import _shared as shared
from kdht.wire._shared import VERDICT_OF, Flag, Op, Reason, Verdict, siphash

NAMES = [name for name, _, _ in shared.LAYOUT]
FILLED_BY_ENTRY = (
    "status", "time", "epoch", "reserved1", "client_port", "client_ip", "entry_ip", "entry_port",
    "reserved2", "body_tag", "header_tag",
)  # fmt: skip
ROUTED_OPS = range(shared.FIRST_ROUTED_OP, shared.LAST_ROUTED_OP + 1)
WRITE_OPS = (Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW)
PADDED_OPS = (Op.GET, Op.QUORUM_GET, Op.TRACE)
CONTROL_OPS = range(shared.FIRST_CONTROL_OP, shared.LAST_CONTROL_OP + 1)


class UnchangedEnd(Exception):
    """A verdict on an unchanged message."""

    def __init__(self, reason: Reason, max_reply: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.max_reply = max_reply


class OracleResult(NamedTuple):
    """A verdict, and the bytes after it."""

    reason: Reason
    data: bytes
    source: Address | None = None
    target: Address | None = None
    next_id: bytes | None = None
    max_reply: int = 0

    @property
    def verdict(self) -> Verdict:
        return VERDICT_OF[self.reason]


@dataclass
class OracleSettings:
    """The arguments of Core.configure."""

    self_id: bytes
    port: int
    own: Sequence[bytes]
    source4: bytes | None
    source6: bytes | None
    keys: Sequence[tuple[int, bytes]]
    cookie_key: bytes
    cookies: bool = True
    window: int = shared.REPLAY_WINDOW
    hop_limit: int = shared.HOP_LIMIT
    untagged: bool = False
    write_cookie: bool = False
    prefixes: Sequence[tuple[bytes, int, int]] | None = None
    """Who may send requests: address, bits, rights. None: everybody."""


class Arrival(NamedTuple):
    """A message with the caller's knowledge of it; `ip_version` is None on a socket.

    `inside`: from a sender on this host.
    """

    data: bytes
    header: SimpleNamespace
    source: Address
    target: Address
    now: int
    ip_version: int | None
    inside: bool

    @property
    def forwarded(self) -> bool:
        return bool(self.header.flags & Flag.FORWARDED)

    def fits(self, *addresses: Address) -> bool:
        """Whether a packet of this IP version can carry these addresses."""
        return self.ip_version is None or all(version_of(a.ip) == self.ip_version for a in addresses)


# --- The table -------------------------------------------------------------------------


def distance(a: bytes, b: bytes) -> int:
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def common_bits(a: bytes, b: bytes) -> int:
    return shared.ID_BITS - distance(a, b).bit_length()


@dataclass
class SlowTable:
    """Contacts by bucket; every question sorts them all."""

    self_id: bytes
    buckets: dict[int, list[Contact]] = field(default_factory=dict)

    def set_bucket(self, index: int, contacts: Sequence[Contact]) -> None:
        self.buckets[index] = list(contacts)

    def bucket(self, index: int) -> list[Contact]:
        return self.buckets.get(index, [])

    def occupancy(self) -> int:
        return sum(1 << (shared.ID_BITS - 1 - index) for index, held in self.buckets.items() if held)

    def closest(self, key: bytes, count: int = shared.K) -> list[Contact]:
        everyone = [contact for held in self.buckets.values() for contact in held]
        return sorted(everyone, key=lambda contact: distance(contact.id, key))[:count]

    def closer(self, key: bytes) -> list[Contact]:
        """The contacts strictly closer to the key than this node, nearest first."""
        own = distance(self.self_id, key)
        return [c for c in self.closest(key, shared.ID_BITS * shared.ROOM) if distance(c.id, key) < own]

    def next_hop(self, key: bytes, attempt: int = 0) -> Contact | None:
        closer = self.closer(key)
        return closer[attempt] if attempt < len(closer) else None

    def rank(self, key: bytes, limit: int) -> int:
        return min(len(self.closer(key)), limit)


# --- Addresses -------------------------------------------------------------------------


def version_of(ip: bytes) -> int:
    return 4 if ip[:12] == bytes(10) + b"\xff\xff" else 6


def is_loopback(ip: bytes) -> bool:
    return ip[12] == 127 if version_of(ip) == 4 else ip == bytes(15) + b"\x01"


def is_unicast(ip: bytes) -> bool:
    """Whether one host can have the address."""
    if version_of(ip) == 4:
        return ip[12] != 0 and not 224 <= ip[12] <= 239 and ip[12:] != b"\xff\xff\xff\xff"
    return ip != NO_IP and ip[0] != 0xFF


# --- The message -----------------------------------------------------------------------


def read_header(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(NAMES, HEADER.unpack_from(data), strict=True)))


def write_header(header: SimpleNamespace, body: bytes) -> bytes:
    return HEADER.pack(*(getattr(header, name) for name in NAMES)) + body


def ensure(holds: bool, reason: Reason, max_reply: int = 0) -> None:
    if not holds:
        raise UnchangedEnd(reason, max_reply)


def checked_form(data: bytes) -> SimpleNamespace:
    """The header of a message of the right form."""
    ensure(len(data) >= 4, Reason.TRUNCATED)
    ensure(int.from_bytes(data[:4], "big") == shared.MAGIC, Reason.BAD_MAGIC)
    ensure(len(data) >= shared.HEADER_LEN, Reason.TRUNCATED)
    header = read_header(data)
    ensure(header.version == shared.VERSION, Reason.BAD_VERSION)
    ensure(len(data) <= shared.MAX_DATAGRAM and header.body_len <= shared.MAX_BODY, Reason.TOO_LONG)
    ensure(shared.HEADER_LEN + header.body_len == len(data), Reason.BAD_LENGTH)
    ensure(header.flags & ~shared.KNOWN_FLAGS == 0, Reason.BAD_FLAGS)
    if header.flags & shared.REQUEST_FLAGS:
        ensure(not header.flags & Flag.REPLY and header.op <= shared.LAST_ROUTED_OP, Reason.BAD_FLAGS)
    ensure(header.op in ROUTED_OPS or header.op in CONTROL_OPS, Reason.BAD_OP)
    return header


def nh(key: bytes, data: bytes) -> bytes:
    """NH with three lanes over pairs of 32-bit words; lane n begins two words further on in the key."""
    lanes = b""
    for shift in range(3):
        total = 0
        for at in range(0, len(data), 8):
            low, high = words_of(data, at)
            key_low, key_high = words_of(key, at + 8 * shift)
            total += (low + key_low) % 2**32 * ((high + key_high) % 2**32)
        lanes += (total % 2**64).to_bytes(8, "little")
    return lanes


def words_of(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")


class TagKeys(NamedTuple):
    """The parts of a tag key, in their order."""

    header: bytes
    body: bytes
    header_words: bytes
    body_words: bytes


def parts_of(key: bytes) -> TagKeys:
    words = 32 + 4 * shared.HEADER_KEY_WORDS
    return TagKeys(key[:16], key[16:32], key[32:words], key[words:])


def header_tag(key: bytes, header: SimpleNamespace) -> int:
    """NH over bytes 8 to 103; bytes 0 to 6 go to SipHash with its lanes, `hops` goes nowhere."""
    keys, packed = parts_of(key), write_header(header, b"")
    return siphash(keys.header, nh(keys.header_words, packed[8 : shared.TAGGED_LEN]) + packed[:7])


def body_tag(key: bytes, header: SimpleNamespace, body: bytes) -> int:
    """NH over the body with 1 to 8 zeros behind it; SipHash binds it to its request ID and length."""
    if header.op in PADDED_OPS and not header.flags & (Flag.REPLY | Flag.PROVEN):
        return 0
    keys, padded = parts_of(key), body + bytes(8 - len(body) % 8)
    context = header.request_id.to_bytes(8, "big")[4:] + len(body).to_bytes(2, "big")
    return siphash(keys.body, nh(keys.body_words, padded) + context)


@dataclass
class SlowNode:
    """One node: its settings (None: not published yet) and its table."""

    published: OracleSettings | None
    table: SlowTable

    @property
    def settings(self) -> OracleSettings:
        assert self.published is not None
        return self.published

    def decide_message(
        self,
        data: bytes,
        source: Address,
        target: Address,
        now: int,
        ip_version: int | None = None,
        *,
        inside: bool = False,
    ) -> OracleResult:
        """The verdict on a UDP payload; `ip_version` where the packet around it is rewritten, too."""
        data = bytes(data)
        try:
            ensure(self.published is not None, Reason.NOT_READY)
            self._check_source(source.ip, inside)
            return self._route(Arrival(data, checked_form(data), source, target, now, ip_version, inside))
        except UnchangedEnd as ended:
            return OracleResult(ended.reason, data, max_reply=ended.max_reply)

    def _check_source(self, ip: bytes, inside: bool) -> None:
        ensure(is_unicast(ip), Reason.MARTIAN)
        ensure(inside or not (is_loopback(ip) or ip in self.settings.own), Reason.MARTIAN)

    def _route(self, arrival: Arrival) -> OracleResult:
        header = arrival.header
        if not arrival.forwarded:
            self._check_client(arrival)
            return self._request(arrival, self._client_hops(header), self._client_max_reply(arrival))
        self._check_member(arrival)
        if header.op in CONTROL_OPS:
            self._check_body(arrival)
            raise UnchangedEnd(Reason.CONTROL)
        if header.flags & Flag.REPLY:
            return self._reply(arrival)
        return self._request(arrival, header.hops, min(header.max_reply, shared.MAX_BODY))

    # A client's request

    def _check_client(self, arrival: Arrival) -> None:
        header = arrival.header
        ensure(not header.flags & Flag.REPLY and header.op in ROUTED_OPS, Reason.BAD_FLAGS)
        for name in FILLED_BY_ENTRY:
            ensure(getattr(header, name) in (0, NO_IP), Reason.FORGED_ORIGIN)
        ensure(arrival.source.port != 0, Reason.BAD_ADDRESS)
        writes = header.op in WRITE_OPS
        needed = shared.MAY_WRITE if writes else shared.MAY_READ
        ensure(bool(self._rights_of(arrival.source.ip) & needed), Reason.NOT_ALLOWED)
        if header.op == Op.WATCH or (writes and self.settings.write_cookie):
            ensure(self._proven(arrival), Reason.NEEDS_COOKIE)

    def _rights_of(self, ip: bytes) -> int:
        """Those of the longest prefix that the address is under."""
        if self.settings.prefixes is None:
            return shared.MAY_READ | shared.MAY_WRITE
        text = f"{int.from_bytes(ip, 'big'):0128b}"
        under = [
            (bits, rights)
            for prefix, bits, rights in self.settings.prefixes
            if f"{int.from_bytes(prefix, 'big'):0128b}"[:bits] == text[:bits]
        ]
        return max(under)[1] if under else 0

    def _client_hops(self, header: SimpleNamespace) -> int:
        limit = self.settings.hop_limit
        return limit if header.hops == 0 or header.hops > limit else header.hops

    def _client_max_reply(self, arrival: Arrival) -> int:
        takes = min(arrival.header.max_reply or shared.MAX_BODY, shared.MAX_BODY)
        free = not self.settings.cookies or self._proven(arrival)
        return takes if free else min(takes, arrival.header.body_len)

    def _proven(self, arrival: Arrival) -> bool:
        slot = arrival.now >> shared.COOKIE_SLOT_BITS
        good = [self.cookie(arrival.source.ip, s) for s in (slot - 1, slot, slot + 1) if s >= 0]
        return arrival.header.cookie in good

    def cookie(self, ip: bytes, slot: int) -> int:
        return siphash(self.settings.cookie_key, ip + slot.to_bytes(8, "big")) or 1

    # A member's message

    def _check_member(self, arrival: Arrival) -> None:
        header, settings = arrival.header, self.settings
        ensure(header.reserved1 == 0 and header.reserved2 == 0, Reason.BAD_FLAGS)
        if not settings.untagged:
            ensure(header.epoch in self._tag_keys(), Reason.BAD_EPOCH)
            right = header_tag(self._tag_keys()[header.epoch], header)
            ensure(header.header_tag == right, Reason.BAD_TAG)
        age = (arrival.now - header.time) % 2**32
        ensure(min(age, 2**32 - age) <= settings.window, Reason.STALE)
        ensure(header.hops > 0, Reason.HOP_LIMIT)

    def _tag_keys(self) -> dict[int, bytes]:
        """By epoch; of two with the same one, the first."""
        return dict(reversed(self.settings.keys))

    def _check_body(self, arrival: Arrival) -> None:
        if arrival.forwarded and not self.settings.untagged:
            key, header = self._tag_keys()[arrival.header.epoch], arrival.header
            right = body_tag(key, header, arrival.data[shared.HEADER_LEN :])
            ensure(header.body_tag == right, Reason.BAD_BODY_TAG)

    # A reply, at the entry node

    def _reply(self, arrival: Arrival) -> OracleResult:
        header, settings = arrival.header, self.settings
        entry = Address(header.entry_ip, header.entry_port)
        client = Address(header.client_ip, header.client_port)
        ensure(entry.ip in settings.own and entry.port == settings.port, Reason.NOT_ENTRY)
        ensure(is_unicast(client.ip) and client.port != 0, Reason.BAD_ADDRESS)
        self._check_body(arrival)
        ensure(arrival.fits(client, entry), Reason.FAMILY)
        slot = arrival.now >> shared.COOKIE_SLOT_BITS
        zeroed = ("time", "epoch", "client_port", "entry_port", "max_reply", "body_tag", "header_tag")
        relayed = SimpleNamespace(**{**vars(header), **dict.fromkeys(zeroed, 0)})
        relayed.client_ip = relayed.entry_ip = NO_IP
        relayed.cookie = self.cookie(client.ip, slot)
        data = write_header(relayed, arrival.data[shared.HEADER_LEN :])
        return OracleResult(Reason.RELAYED, data, source=entry, target=client)

    # A request, wherever it comes from

    def _request(self, arrival: Arrival, hops: int, max_reply: int) -> OracleResult:
        key, attempt = arrival.header.key, arrival.header.attempt
        contact = self.table.next_hop(key, attempt)
        if contact is None:
            self._check_body(arrival)
            owner = self.table.next_hop(key) is None
            raise UnchangedEnd(Reason.OWNER if owner else Reason.ATTEMPT_ENDS, max_reply)
        if hops <= 1:
            ensure(arrival.header.op == Op.TRACE, Reason.HOP_LIMIT)
            self._check_body(arrival)
            raise UnchangedEnd(Reason.TRACE_ENDS, max_reply)
        return self._forward(arrival, contact, hops - 1, max_reply)

    def _forward(self, arrival: Arrival, contact: Contact, hops: int, max_reply: int) -> OracleResult:
        settings = self.settings
        usual = settings.source4 if version_of(contact.ip) == 4 else settings.source6
        source = Address(usual or NO_IP, settings.port)
        ensure(arrival.fits(contact.address), Reason.FAMILY)
        ensure(arrival.ip_version is None or usual is not None, Reason.FAMILY)
        header = SimpleNamespace(**{**vars(arrival.header), "hops": hops})
        body = arrival.data[shared.HEADER_LEN :]
        if not arrival.forwarded:
            self._enter(header, arrival, max_reply, body)
        reason = Reason.NEXT_HOP if arrival.forwarded else Reason.ENTERED
        return OracleResult(reason, write_header(header, body), source, contact.address, contact.id)

    def _enter(self, header: SimpleNamespace, arrival: Arrival, max_reply: int, body: bytes) -> None:
        """Fill in the entry node's fields."""
        epoch, key = self.settings.keys[0]
        header.flags |= Flag.FORWARDED
        header.time, header.epoch = arrival.now % 2**32, epoch
        header.client_ip, header.client_port = arrival.source
        header.entry_ip, header.entry_port = arrival.target
        header.max_reply, header.cookie = max_reply, 0
        if not self.settings.untagged:
            header.body_tag = body_tag(key, header, body)
            header.header_tag = header_tag(key, header)
