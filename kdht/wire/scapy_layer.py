"""kdht's messages for scapy: it dissects, builds and shows them, and `sr1` matches replies.

    from kdht.wire.scapy_layer import KDHT, KDHTRecord
    IP(dst="10.0.0.1") / UDP() / KDHT(op="GET", request_id=1, key=hash_key("hello"))

The import binds KDHT to UDP port 5348. Nothing is checked, so that wrong packets can be made and shown.
`body_len` is computed if it is not given. Needs scapy.
"""

from typing import TypeAlias

from scapy.fields import (
    ByteEnumField,
    ByteField,
    ConditionalField,
    FieldLenField,
    FlagsField,
    IntField,
    IP6Field,
    LongField,
    PacketListField,
    ShortField,
    StrLenField,
    XIntField,
    XLongField,
    XStrFixedLenField,
)
from scapy.layers.inet import UDP
from scapy.packet import Packet, Raw, bind_layers

from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, RecordFlag, Right, Status
from kdht.wire.sets import (
    ASKED_LEN,
    END,
    ENTRY_LEN,
    FIRST,
    FROM_LEN,
    HEAD_LEN,
    LISTED_LEN,
    NAME_LEN,
    PLACE_LEN,
    QUORUM,
    RENEWAL,
    SOFT,
)

_OPS = {op.value: op.name for op in Op}
_STATUS_NAMES = {status.value: status.name for status in Status}
_FLAGS = {flag.value: str(flag.name) for flag in Flag}
_RIGHTS = {right.value: str(right.name) for right in Right}


class AddressField(IP6Field):
    """An IPv6 or IPv4-mapped address; takes plain IPv4 too ("10.0.0.1" is "::ffff:10.0.0.1")."""

    def h2i(self, pkt: Packet | None, x: str | None) -> str:
        """From the text that a user gives."""
        is_ipv4 = isinstance(x, str) and ":" not in x and x.count(".") == 3
        return super().h2i(pkt, f"::ffff:{x}" if is_ipv4 else x)


@classmethod  # type: ignore[misc]
def _whole_or_raw(
    cls: type[Packet], _pkt: bytes | None = None, *args: object, **fields: object
) -> type[Packet]:
    """Bytes that are too few for a layer stay raw. Scapy calls only what stands in the class itself."""
    return cls if not _pkt or len(_pkt) >= _least(cls, _pkt) else Raw


class KDHTContact(Packet):
    """A node that others may route to."""

    name = "KDHT contact"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        XStrFixedLenField("id", bytes(shared.ID_LEN), length=shared.ID_LEN),
        AddressField("ip", "::"),
        ShortField("port", shared.PORT),
    ]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """After a contact comes the next one."""
        return b"", s


def _contact_or_end(_packet: Packet, _before: object, _last: object, left: bytes) -> type[Packet] | None:
    """Bytes that are too short for a contact stay raw."""
    return KDHTContact if len(left) >= shared.CONTACT_LEN else None


class KDHTContacts(Packet):
    """The body of a TRACE's reply."""

    name = "KDHT contacts"
    dispatch_hook = _whole_or_raw
    fields_desc = [PacketListField("contacts", [], next_cls_cb=_contact_or_end)]


class KDHTRecord(Packet):
    """The body of a PUT, of its reply and of a GET's reply; the value is the payload.

    A conditional write has its condition before the value, a STORE that was decided by promises its nonce.
    """

    name = "KDHT record"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        LongField("version", 0),
        IntField("ttl", 0),
        XIntField("flags", 0),
        ConditionalField(LongField("condition", 0), lambda record: record.flags & RecordFlag.IF_VERSION),
        ConditionalField(XLongField("nonce", 0), lambda record: record.flags & RecordFlag.DECIDED),
    ]


class KDHTPromise(Packet):
    """The body of a PROMISE."""

    name = "KDHT promise"
    dispatch_hook = _whole_or_raw
    fields_desc = [LongField("version", 0), XLongField("nonce", 0)]


class KDHTAnnouncement(Packet):
    """The body of an ANNOUNCE or WITHDRAW; the announcement's payload is the layer's."""

    name = "KDHT announcement"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        LongField("version", 0),
        IntField("ttl", 0),
        FlagsField("flags", 0, 32, {SOFT: "SOFT", RENEWAL: "RENEWAL"}),
        XStrFixedLenField("member", bytes(NAME_LEN), length=NAME_LEN),
    ]


class KDHTMembersAsked(Packet):
    """The body of a MEMBERS; what follows is padding."""

    name = "KDHT members asked"
    dispatch_hook = _whole_or_raw
    fields_desc = [XLongField("cursor", FIRST), FlagsField("flags", 0, 32, {QUORUM: "QUORUM"})]


class KDHTMember(Packet):
    """One member in the reply to MEMBERS."""

    name = "KDHT member"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        XLongField("id", 0),
        IntField("ttl", 0),
        FieldLenField("length", None, length_of="payload_bytes", fmt="H"),
        StrLenField("payload_bytes", b"", length_from=lambda member: member.length),
    ]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """After a member comes the next one."""
        return b"", s


class KDHTListed(Packet):
    """One member, or a tombstone, in the reply to LIST."""

    name = "KDHT listed"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        XStrFixedLenField("place", bytes(PLACE_LEN), length=PLACE_LEN),
        LongField("version", 0),
        IntField("expiry", 0),
        ShortField("flags", 0),
        FieldLenField("length", None, length_of="payload_bytes", fmt="H"),
        StrLenField("payload_bytes", b"", length_from=lambda member: member.length),
    ]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """After a member comes the next one."""
        return b"", s


def _entry_or_end(packet: Packet, _before: object, _last: object, left: bytes) -> type[Packet] | None:
    """Bytes that are too short for an entry stay raw."""
    entry = packet.ENTRY
    return entry if len(left) >= _LEAST[entry] else None


class KDHTMembers(Packet):
    """The body of a MEMBERS' reply."""

    name = "KDHT members"
    dispatch_hook = _whole_or_raw
    ENTRY: type[Packet] = KDHTMember
    fields_desc = [
        IntField("total", 0),
        IntField("reserved", 0),
        XLongField("next", END),
        PacketListField("members", [], next_cls_cb=_entry_or_end),
    ]


class KDHTList(KDHTMembers):
    """The body of a LIST's reply."""

    name = "KDHT list"
    ENTRY: type[Packet] = KDHTListed


class KDHTListAsked(Packet):
    """The body of a LIST."""

    name = "KDHT list asked"
    dispatch_hook = _whole_or_raw
    fields_desc = [XLongField("start", FIRST)]


class KDHTControl(Packet):
    """The body of a PING or FIND_NODE: who sends it, and the contacts of a FIND_NODE's reply."""

    name = "KDHT control"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        XStrFixedLenField("sender", bytes(shared.ID_LEN), length=shared.ID_LEN),
        PacketListField("contacts", [], next_cls_cb=_contact_or_end),
    ]


class KDHTProof(Packet):
    """The end of a PROVEN request, behind its body: a grant, and the MAC of the request under the token's key."""

    name = "KDHT proof"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        ByteField("kind", shared.GRANT_KIND),
        FlagsField("rights", 0, 8, _RIGHTS),
        ByteField("epoch", 0),
        ByteField("reserved", 0),
        IntField("expiry", 0),
        XLongField("holder", 0),
        XLongField("scope", 0),
        XStrFixedLenField("inner", bytes(shared.ID_LEN), length=shared.ID_LEN),
        LongField("seq", 0),
        XStrFixedLenField("mac", bytes(shared.PROOF_MAC_LEN), length=shared.PROOF_MAC_LEN),
    ]


BodyKind: TypeAlias = tuple[Op, bool]
"""An op, and whether the message is its reply."""

_BODIES: dict[BodyKind, type[Packet]] = {
    (Op.GET, True): KDHTRecord,
    (Op.PUT, False): KDHTRecord,
    (Op.PUT, True): KDHTRecord,
    (Op.DELETE, False): KDHTRecord,
    (Op.ANNOUNCE, False): KDHTAnnouncement,
    (Op.ANNOUNCE, True): KDHTRecord,
    (Op.WITHDRAW, False): KDHTAnnouncement,
    (Op.MEMBERS, False): KDHTMembersAsked,
    (Op.MEMBERS, True): KDHTMembers,
    (Op.LIST, False): KDHTListAsked,
    (Op.LIST, True): KDHTList,
    (Op.STORE, False): KDHTRecord,
    (Op.STORE, True): KDHTRecord,
    (Op.FETCH, True): KDHTRecord,
    (Op.PROMISE, False): KDHTPromise,
    (Op.PROMISE, True): KDHTRecord,
    (Op.TRACE, True): KDHTContacts,
    (Op.PING, False): KDHTControl,
    (Op.PING, True): KDHTControl,
    (Op.FIND_NODE, False): KDHTControl,
    (Op.FIND_NODE, True): KDHTControl,
}


_LEAST: dict[type[Packet], int] = {
    KDHTContact: shared.CONTACT_LEN,
    KDHTRecord: shared.RECORD_LEN,
    KDHTPromise: shared.RECORD_LEN,
    KDHTControl: shared.ID_LEN,
    KDHTContacts: shared.CONTACT_LEN,
    KDHTProof: shared.PROOF_LEN,
    KDHTAnnouncement: shared.RECORD_LEN + NAME_LEN,
    KDHTMembersAsked: ASKED_LEN,
    KDHTMembers: HEAD_LEN,
    KDHTMember: ENTRY_LEN,
    KDHTListAsked: FROM_LEN,
    KDHTList: HEAD_LEN,
    KDHTListed: LISTED_LEN,
}
_EXTRAS = (RecordFlag.IF_VERSION, RecordFlag.DECIDED)


def _least(kind: type[Packet], payload: bytes) -> int:
    """The least bytes that a body of this kind needs."""
    least = _LEAST.get(kind, 0)
    if kind is KDHTRecord and len(payload) >= least:
        flags = int.from_bytes(payload[least - 4 : least], "big")
        least += shared.CONDITION_LEN * sum(bool(flags & flag) for flag in _EXTRAS)
    return least


class KDHT(Packet):
    """The header that every message has; docs/protocol.md explains the fields.

    `sealed_at` is the field time: scapy keeps `time` for when a packet was captured.
    """

    name = "KDHT"
    dispatch_hook = _whole_or_raw
    fields_desc = [
        XIntField("magic", shared.MAGIC),
        ByteField("version", shared.VERSION),
        ByteEnumField("op", Op.GET.value, _OPS),
        FlagsField("flags", 0, 8, _FLAGS),
        ByteField("hops", 0),
        XLongField("request_id", 0),
        XStrFixedLenField("key", bytes(shared.ID_LEN), length=shared.ID_LEN),
        ByteField("attempt", 0),
        ByteEnumField("status", Status.OK.value, _STATUS_NAMES),
        ShortField("body_len", None),
        IntField("sealed_at", 0),
        ByteField("epoch", 0),
        ByteField("reserved1", 0),
        ShortField("client_port", 0),
        AddressField("client_ip", "::"),
        AddressField("entry_ip", "::"),
        ShortField("entry_port", 0),
        ShortField("max_reply", 0),
        IntField("reserved2", 0),
        XLongField("cookie", 0),
        XLongField("body_tag", 0),
        XLongField("header_tag", 0),
    ]

    @property
    def is_reply(self) -> bool:
        return bool(int(self.flags) & Flag.REPLY)

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the body length."""
        if self.body_len is None:
            at = next(offset for name, offset, _ in shared.LAYOUT if name == "body_len")
            pkt = pkt[:at] + len(pay).to_bytes(2, "big") + pkt[at + 2 :]
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """The body ends where the header says."""
        return s[: self.body_len], s[self.body_len :]

    def do_dissect_payload(self, s: bytes) -> None:
        """The body; behind it, as a layer of its own, a PROVEN request's proof."""
        proof = b""
        if int(self.flags) & Flag.PROVEN and not self.is_reply and len(s) >= shared.PROOF_LEN:
            s, proof = s[: -shared.PROOF_LEN], s[-shared.PROOF_LEN :]
        super().do_dissect_payload(s)
        if proof:
            self.lastlayer().add_payload(KDHTProof(proof))

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """By op and direction; a body too short for its layer stays raw."""
        kind = _BODIES.get((self.op, self.is_reply), Raw)
        return kind if len(payload) >= _least(kind, payload) else Raw

    def hashret(self) -> bytes:
        """Equal for a request and its reply."""
        return int(self.request_id).to_bytes(8, "big")

    def answers(self, other: Packet) -> int:
        """Whether this is the reply to `other`."""
        return int(
            isinstance(other, KDHT)
            and self.is_reply
            and not other.is_reply
            and (self.op, self.request_id, self.key) == (other.op, other.request_id, other.key)
        )

    def mysummary(self) -> str:
        """One line: what is asked or answered, and of which key."""
        status = f" {_STATUS_NAMES.get(self.status, self.status)}" if self.is_reply else ""
        return f"KDHT {_OPS.get(self.op, self.op)}{status} {self.key.hex()} hops {self.hops}"


_LEAST[KDHT] = shared.HEADER_LEN

bind_layers(UDP, KDHT, dport=shared.PORT)
bind_layers(UDP, KDHT, sport=shared.PORT)
bind_layers(UDP, KDHT, sport=shared.PORT, dport=shared.PORT)
