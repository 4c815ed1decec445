"""The DNS face: any bytes as a query, and any bytes as what an announcer made of a payload.

Invariant: a query gets one answer, or BadPacket; nothing else is raised. dnspython reads each answer. To an asker that has proved
nothing it is no longer than the question and a server cookie, and by UDP never longer than allowed. Endpoints parse to what packs
to the same bytes.

    | choices | length of the payload | payload | query |
"""

import dns.edns
import dns.message
import dns.name

from fuzz.targets.events import Reader
from kdht.errors import BadPacket
from kdht.faces.dns.answers import Answerer, Question, Zone
from kdht.faces.dns.cookies import make_cookie
from kdht.faces.dns.messages import EDNS_SIZE, MAX_QUERY, PLAIN_SIZE
from kdht.faces.dns.records import entry_of_member, entry_of_record
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Record
from kdht.wire.addresses import Address
from kdht.wire.endpoints import parse_endpoint
from kdht.wire.sets import Member

NOW = UnixTime(1_800_000_000.0)
KEYS = [bytes(16), bytes(range(16))]
ASKER = Address.of("192.0.2.7", 40000)
COOKIE_LEN = 16
LEAST_SIZE = 12
"""A refusal's header."""
ZONE = Zone(
    origin=dns.name.from_text("kdht."),
    nameservers=[],
    addresses=["10.0.0.1", "fd00::1"],
    ttl=30,
    negative_ttl=5,
)
STREAM, GENEROUS, FAILED, COOKIE, VALUE = 1, 2, 4, 8, 16
"""Choices: by TCP; there is a share for unproven askers; the cluster does not answer; a good cookie at the query's end; the
payload is a value, too."""


def counted(event: str) -> None:
    assert event.isidentifier()


ANSWERERS = [Answerer(ZONE, KEYS, lambda asker, now, share=share: share, counted) for share in (False, True)]


def one(data: bytes) -> None:
    reader = Reader(data)
    choices = reader.byte()
    payload = reader.bytes(reader.byte())
    query = reader.bytes(MAX_QUERY + 1)
    check_endpoint(payload)
    if choices & COOKIE and len(query) >= 8:
        query += make_cookie(KEYS[0], query[-8:], ASKER, NOW)
    answerer, stream = ANSWERERS[bool(choices & GENEROUS)], bool(choices & STREAM)
    try:
        judged = answerer.judge(query, ASKER, NOW, stream=stream)
    except BadPacket:
        return
    answer, proven = judged, False
    if isinstance(judged, Question):
        proven = judged.proven
        entries = None if choices & FAILED else entries_of(payload, value=bool(choices & VALUE))
        answer = answerer.answer(judged, entries if judged.wanted else (), NOW, SteadyTime(0.0))
    dns.message.from_wire(answer)
    assert answer[:2] == query[:2]
    if not stream and not proven:
        least = max(len(query), LEAST_SIZE) + COOKIE_LEN
        assert len(answer) <= (PLAIN_SIZE if choices & GENEROUS else least)
    assert stream or len(answer) <= EDNS_SIZE


def entries_of(payload: bytes, *, value: bool):
    entries = [entry_of_member(Member(number, 20 + number, payload[number:]), NOW) for number in range(20)]
    return [*entries, entry_of_record(Record(1, 0, 0, payload * 4), NOW)] if value else entries


def check_endpoint(payload: bytes) -> None:
    try:
        endpoint = parse_endpoint(payload)
    except BadPacket:
        return
    assert endpoint.pack() == payload


def seeds():
    payload = bytes.fromhex("01 01 0050 0a000007 01 02 763d31")
    head = bytes([len(payload)]) + payload
    for name in (
        "web.kdht",
        "_http._tcp.web.kdht",
        "0000000000000003.web.kdht",
        "kdht",
        "ns.kdht",
        "x.y.kdht",
        "org",
    ):
        for kind in ("A", "SRV", "TXT", "SOA"):
            query = dns.message.make_query(name, kind, id=7)
            yield f"{name}-{kind}", b"\2" + head + query.to_wire()
    edns = dns.message.make_query("web.kdht", "ANY", id=7, use_edns=0, payload=4096, want_dnssec=True)
    yield "edns", b"\x12" + head + edns.to_wire()
    cookie = dns.edns.GenericOption(10, bytes(24))
    asked = dns.message.make_query("web.kdht", "SRV", id=7, use_edns=0, options=[cookie]).to_wire()
    yield "cookie", b"\x08" + head + asked[:-16]
    yield "old-cookie", b"\0" + head + asked
    yield "tcp", b"\x11" + head + asked
    yield (
        "six",
        b"\2"
        + bytes([22])
        + bytes.fromhex("01 02 0050 fd000000000000000000000000000007 01 02")
        + edns.to_wire(),
    )
