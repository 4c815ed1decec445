"""Makes captures fit for publication: another key, other addresses, other IDs, no values.

Every packet keeps its verdict. An address becomes the same other address everywhere: in IP,
headers, bodies and the table. All IDs and keys are XORed with one random mask, so XOR distances
stay. Right tags and cookies are made anew under the fixture's published key. Wrong ones stay wrong.
"""

import random
from dataclasses import replace

from kdht.replay.packets import complete, ip_is_right, packet, take_apart
from kdht.replay.redate import get, put
from kdht.replay.seen import is_ordinary
from kdht.replay.tables import FIXTURE_SECRET, KeyEntry, ReplayTable
from kdht.wire import NO_IP, OFFSET, Address, Contact, body_tag, header_tag, keys, make_cookie
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op
from kdht.wire.keys import ClusterSecret

_ID_FIELDS = {Op.PING: shared.ID_LEN, Op.FIND_NODE: shared.ID_LEN, Op.TRACE: 0}
"""Where the contacts of a reply's body begin."""


class Scrubber:
    """For one recording; `addresses` and `values`: whether those are replaced."""

    def __init__(self, table: ReplayTable, *, addresses: bool, values: bool, seed: int | None = None) -> None:
        self._rng = random.Random(seed) if seed is not None else random.SystemRandom()
        self._addresses = addresses
        self._values = values
        self._mask = self._rng.randbytes(shared.ID_LEN) if addresses else bytes(shared.ID_LEN)
        self._given: dict[bytes, bytes] = {}
        self._before = {key.epoch: key for key in table.keys}
        self._cookie_before = table.keys[0].cookie
        self.secrets = [KeyEntry(key.epoch, f"{FIXTURE_SECRET}, {key.epoch}") for key in table.keys]
        self._after: dict[int, ClusterSecret] = {
            entry.epoch: keys.derive(entry.epoch, str(entry.secret).encode()) for entry in self.secrets
        }
        self._cookie_after = self._after[table.keys[0].epoch].cookie
        self.table = self._scrubbed_table(table)

    def _scrubbed_table(self, table: ReplayTable) -> ReplayTable:
        return replace(
            table,
            self_id=self._id(table.self_id),
            own=tuple(self._ip(ip) for ip in table.own),
            source4=self._ip(table.source4) if table.source4 else None,
            source6=self._ip(table.source6) if table.source6 else None,
            keys=tuple(self._after[key.epoch] for key in table.keys),
            contacts=tuple(self._contact(contact) for contact in table.contacts),
        )

    def packet(self, raw: bytes, now: int) -> bytes:
        """One IP packet, captured at the second `now`, of the same length."""
        datagram = take_apart(raw)
        if datagram is None:
            return self._odd_packet(raw)
        message = bytearray(datagram.message)
        source = Address(self._ip(datagram.source.ip), datagram.source.port)
        target = Address(self._ip(datagram.target.ip), datagram.target.port)
        self._message(message, datagram.source, source, now)
        made = packet(bytes(message), source, target, datagram.checksum)
        tail = bytes(len(raw) - len(made)) if self._values else raw[len(made) :]
        return self._ip_header(raw, bytes(made)) + tail

    def _ip_header(self, raw: bytes, made: bytes) -> bytes:
        """The old packet's header fields, but for addresses and IPv4's checksum. A wrong one stays wrong."""
        if raw[0] >> 4 == 6:
            return raw[:8] + made[8:]
        head = bytearray(raw[:12] + made[12:])
        complete(head)
        head[10] ^= not ip_is_right(raw)
        return bytes(head)

    def _odd_packet(self, raw: bytes) -> bytes:
        """For other than plain UDP datagrams: replace addresses, cut everything behind 28 or 64 bytes."""
        made = bytearray(raw)
        version = raw[0] >> 4 if raw else 0
        width, places, kept = {4: (4, (12, 16), 40), 6: (16, (8, 24), 64)}.get(version, (0, (), 0))
        for at in places:
            if len(made) >= at + width:
                made[at : at + width] = self._ip(_widened(raw[at : at + width]))[-width:]
        if self._values and len(made) > kept:
            made[kept:] = bytes(len(made) - kept)
        if version == 4 and len(made) >= 20:
            complete(made)
        return bytes(made)

    # --- Messages ------------------------------------------------------------------------------

    def _message(self, message: bytearray, before: Address, after: Address, now: int) -> None:
        """Changes the message in place. One that is too short, or not ours, keeps its first four bytes only."""
        if len(message) < shared.HEADER_LEN or get(message, "magic") != shared.MAGIC:
            if self._values:
                message[4:] = bytes(len(message) - 4)
            return
        old_key = self._before.get(get(message, "epoch"))
        forwarded = bool(get(message, "flags") & Flag.FORWARDED)
        right_header = forwarded and old_key and get(message, "header_tag") == header_tag(message, old_key)
        right_body = forwarded and old_key and get(message, "body_tag") == body_tag(message, old_key)
        late = self._cookie_age(message, before, now)
        self._fields(message)
        self._body(message)
        if not forwarded:
            if late is not None:
                put(message, "cookie", make_cookie(self._cookie_after, after.ip, max(now - late, 0)))
            return
        new_key = self._after.get(get(message, "epoch"))
        if new_key is None:
            return
        put(message, "body_tag", body_tag(message, new_key) ^ (not right_body))
        put(message, "header_tag", header_tag(message, new_key) ^ (not right_header))

    def _cookie_age(self, message: bytearray, source: Address, now: int) -> int | None:
        """How long ago a valid cookie's slot was; None for no such cookie."""
        for late in (0, 1 << shared.COOKIE_SLOT_BITS, -1 << shared.COOKIE_SLOT_BITS):
            if get(message, "cookie") == make_cookie(self._cookie_before, source.ip, max(now - late, 0)):
                return late
        return None

    def _fields(self, message: bytearray) -> None:
        at = OFFSET["key"]
        message[at : at + shared.ID_LEN] = self._key(message, bytes(message[at : at + shared.ID_LEN]))
        for name in ("client_ip", "entry_ip"):
            at = OFFSET[name]
            message[at : at + 16] = self._ip(bytes(message[at : at + 16]))

    def _key(self, message: bytearray, key: bytes) -> bytes:
        """A PING to nobody in particular has no key."""
        return key if get(message, "op") == Op.PING and not any(key) else self._id(key)

    def _body(self, message: bytearray) -> None:
        """Contacts are replaced where they stand; a value becomes zeros."""
        op, is_reply = get(message, "op"), bool(get(message, "flags") & Flag.REPLY)
        begin = shared.HEADER_LEN
        if op in (Op.PING, Op.FIND_NODE) or (op == Op.TRACE and is_reply):
            self._contacts(message, begin, _ID_FIELDS[Op(op)])
        elif self._values:
            kept = begin + (shared.RECORD_LEN if op == Op.PUT or is_reply else 0)
            message[kept:] = bytes(max(len(message) - kept, 0))

    def _contacts(self, message: bytearray, begin: int, skip: int) -> None:
        if skip and len(message) >= begin + skip:
            message[begin : begin + skip] = self._id(bytes(message[begin : begin + skip]))
        for at in range(begin + skip, len(message) - shared.CONTACT_LEN + 1, shared.CONTACT_LEN):
            ip_at, end = at + shared.ID_LEN, at + shared.CONTACT_LEN
            message[at:ip_at] = self._id(bytes(message[at:ip_at]))
            message[ip_at : end - 2] = self._ip(bytes(message[ip_at : end - 2]))

    # --- Identities ------------------------------------------------------------------------------

    def _id(self, node: bytes) -> bytes:
        return bytes(one ^ other for one, other in zip(node, self._mask, strict=True))

    def _contact(self, contact: Contact) -> Contact:
        return Contact(self._id(contact.id), self._ip(contact.ip), contact.port)

    def _ip(self, ip: bytes) -> bytes:
        """Always the same other address. An address of no host stays."""
        if not self._addresses or ip == NO_IP or not is_ordinary(Address(ip, 0)):
            return ip
        if ip not in self._given:
            number = len(self._given) + 1
            host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            is_ipv4 = Address(ip, 0).is_ipv4
            self._given[ip] = Address.of(host if is_ipv4 else f"fd00::{number:x}", 0).ip
        return self._given[ip]


def _widened(ip: bytes) -> bytes:
    """IPv4 as IPv6 writes it."""
    return Address.of(".".join(map(str, ip)), 0).ip if len(ip) == 4 else ip
