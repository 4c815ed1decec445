"""Queries to answers, without sockets and without a cluster: dnspython reads each answer."""

import math

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdht.errors import BadPacket
from kdht.faces.dns import cookies
from kdht.faces.dns.answers import Answerer, Question, Zone
from kdht.faces.dns.records import Entry, entry_of_member, entry_of_record
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Record
from kdht.wire.addresses import Address
from kdht.wire.endpoints import Endpoint
from kdht.wire.sets import Member

NOW = UnixTime(1_800_000_000.0)
KEY, OLD_KEY = b"the key of today", b"that of the past"
ASKER = Address.of("192.0.2.7", 40000)
LOCAL = Address.of("127.0.0.1", 40000)
CLIENT_COOKIE = bytes(range(8))
ZONE = Zone(
    origin=dns.name.from_text("kdht."),
    nameservers=[],
    addresses=["10.0.0.1", "fd00::1"],
    ttl=30,
    negative_ttl=5,
)


def member(id: int, payload: bytes, ttl: int = 20) -> Entry:
    return entry_of_member(Member(id, ttl, payload), NOW)


WEB = (
    member(0x11, Endpoint.of("10.0.0.7:80")._replace(priority=1, weight=9, text=b"v=1").pack()),
    member(0x22, b"10.0.0.8:81", ttl=12),
    member(0x33, Endpoint.of("[fd00::9]:82").pack(), ttl=3600),
)


class Asked:
    """An answerer, and what it counted."""

    def __init__(self, zone: Zone = ZONE, *, amplifies: bool = True) -> None:
        self.counted: list[str] = []
        self.answerer = Answerer(zone, [KEY, OLD_KEY], lambda asker, now: amplifies, self.counted.append)

    def bytes_for(self, data: bytes, entries=WEB, asker: Address = ASKER, *, stream: bool = False) -> bytes:
        judged = self.answerer.judge(data, asker, NOW, stream=stream)
        if isinstance(judged, Question):
            found = entries if judged.wanted else ()
            return self.answerer.answer(judged, found, NOW, SteadyTime(0.0))
        return judged

    def ask(self, name, kind, entries=WEB, asker=ASKER, *, stream=False, **how) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **how)
        query.flags &= ~dns.flags.RD
        reply = dns.message.from_wire(self.bytes_for(query.to_wire(), entries, asker, stream=stream))
        assert query.is_response(reply)
        return reply


def texts(rrsets) -> set[str]:
    return {line for rrset in rrsets for line in rrset.to_text().splitlines()}


# --- Names and types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.kdht", "A", {"web.kdht. 12 IN A 10.0.0.7", "web.kdht. 12 IN A 10.0.0.8"}),
        ("web.kdht", "AAAA", {"web.kdht. 30 IN AAAA fd00::9"}),
        ("WeB.kDhT", "AAAA", {"WeB.kDhT. 30 IN AAAA fd00::9"}),
        ("web.kdht", "TXT", {'web.kdht. 20 IN TXT "v=1"'}),
        (
            "web.kdht",
            "SRV",
            {
                "web.kdht. 12 IN SRV 1 9 80 0000000000000011.web.kdht.",
                "web.kdht. 12 IN SRV 0 1 81 0000000000000022.web.kdht.",
                "web.kdht. 12 IN SRV 0 1 82 0000000000000033.web.kdht.",
            },
        ),
        ("0000000000000022.web.kdht", "A", {"0000000000000022.web.kdht. 12 IN A 10.0.0.8"}),
        ("kdht", "NS", {"kdht. 30 IN NS ns.kdht."}),
        ("kdht", "SOA", {"kdht. 30 IN SOA ns.kdht. hostmaster.kdht. 1800000000 3600 600 86400 5"}),
        ("ns.kdht", "A", {"ns.kdht. 30 IN A 10.0.0.1"}),
        ("ns.kdht", "AAAA", {"ns.kdht. 30 IN AAAA fd00::1"}),
        ("web.kdht", "ANY", {'web.kdht. 30 IN HINFO "RFC8482" ""'}),
    ],
)
def test_the_zones_answers(name, kind, expected):
    reply = Asked().ask(name, kind)
    assert (texts(reply.answer), reply.rcode()) == (expected, dns.rcode.NOERROR)
    assert reply.flags == dns.flags.QR | dns.flags.AA


def test_a_service_record_brings_its_targets_addresses():
    reply = Asked().ask("_http._tcp.web.kdht", "SRV", stream=True)
    assert len(reply.answer[0]) == 3
    assert texts(reply.additional) == {
        "0000000000000011.web.kdht. 20 IN A 10.0.0.7",
        "0000000000000022.web.kdht. 12 IN A 10.0.0.8",
        "0000000000000033.web.kdht. 30 IN AAAA fd00::9",
    }


NEGATIVE = {"kdht. 5 IN SOA ns.kdht. hostmaster.kdht. 1800000000 3600 600 86400 5"}


@pytest.mark.parametrize(
    ("name", "kind", "entries", "rcode"),
    [
        ("none.kdht", "A", (), dns.rcode.NXDOMAIN),
        ("a.web.kdht", "A", WEB, dns.rcode.NXDOMAIN),
        ("a.b.web.kdht", "A", WEB, dns.rcode.NXDOMAIN),
        ("0000000000000044.web.kdht", "A", WEB, dns.rcode.NXDOMAIN),
        ("_tcp.web.kdht", "SRV", (), dns.rcode.NXDOMAIN),
        ("a.ns.kdht", "A", (), dns.rcode.NXDOMAIN),
        ("_tcp.web.kdht", "SRV", WEB, dns.rcode.NOERROR),
        ("_tcp.web.kdht", "ANY", WEB, dns.rcode.NOERROR),
        ("_http._tcp.web.kdht", "A", WEB, dns.rcode.NOERROR),
        ("0000000000000022.web.kdht", "AAAA", WEB, dns.rcode.NOERROR),
        ("web.kdht", "MX", WEB, dns.rcode.NOERROR),
        ("web.kdht", "AAAA", WEB[:2], dns.rcode.NOERROR),
        ("web.kdht", "SRV", (member(1, b"10.0.0.7"),), dns.rcode.NOERROR),
        ("kdht", "A", (), dns.rcode.NOERROR),
        ("ns.kdht", "MX", (), dns.rcode.NOERROR),
    ],
)
def test_where_there_is_nothing_the_start_of_authority_says_for_how_long(name, kind, entries, rcode):
    reply = Asked().ask(name, kind, entries)
    assert (reply.rcode(), texts(reply.answer), texts(reply.authority)) == (rcode, set(), NEGATIVE)
    assert reply.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "kind"), [("example.org", "A"), (".", "NS"), ("kdht", "AXFR"), ("kdht", "IXFR"), ("xkdht", "A")]
)
def test_other_zones_and_transfers_are_refused(name, kind):
    asked = Asked()
    query = dns.message.make_query(name, "SOA")
    query.question[0].rdtype = dns.rdatatype.from_text(kind)
    data = query.to_wire()
    for stream in (False, True):
        answer = asked.bytes_for(data, stream=stream)
        reply = dns.message.from_wire(answer)
        assert (reply.rcode(), reply.answer, len(answer)) == (dns.rcode.REFUSED, [], len(data))


def test_a_value_under_the_name_is_like_one_more_member():
    value = entry_of_record(Record(7, 0, 0, b"10.0.0.99:8080"), NOW)
    assert value.expiry == math.inf
    assert texts(Asked().ask("db.kdht", "A", (value,)).answer) == {"db.kdht. 30 IN A 10.0.0.99"}
    assert "db.kdht. 12 IN A 10.0.0.99" in texts(Asked().ask("db.kdht", "A", (*WEB, value)).answer)
    target = "0000000000000000.db.kdht"
    assert texts(Asked().ask(target, "A", (value,)).answer) == {f"{target}. 30 IN A 10.0.0.99"}


def test_any_other_value_is_text():
    value = entry_of_record(Record(7, 9, 0, bytes(range(256)) * 2), NOW)
    reply = Asked().ask("motd.kdht", "TXT", (value,), stream=True)
    assert (b"".join(reply.answer[0][0].strings), reply.answer[0].ttl) == (value.text, 9)
    assert Asked().ask("motd.kdht", "A", (value,)).rcode() == dns.rcode.NOERROR


def test_a_member_is_gone_at_its_expiry():
    dead = [entry._replace(expiry=NOW) for entry in WEB]
    assert Asked().ask("web.kdht", "A", dead).rcode() == dns.rcode.NXDOMAIN
    one = [dead[0], WEB[1]._replace(expiry=NOW + 1.7)]
    assert texts(Asked().ask("web.kdht", "A", one).answer) == {"web.kdht. 1 IN A 10.0.0.8"}


def test_a_cluster_that_does_not_answer_is_a_failed_server():
    asked = Asked()
    data = dns.message.make_query("web.kdht", "A").to_wire()
    assert dns.message.from_wire(asked.bytes_for(data, None)).rcode() == dns.rcode.SERVFAIL
    assert asked.counted == ["failed"]


def test_the_operators_name_servers_are_named():
    zone = Zone(
        origin=dns.name.from_text("c.example."),
        nameservers=[dns.name.from_text("dns1.example.")],
        addresses=[],
        ttl=30,
        negative_ttl=5,
    )
    reply = Asked(zone).ask("c.example", "NS")
    assert (texts(reply.answer), reply.additional) == ({"c.example. 30 IN NS dns1.example."}, [])
    assert Asked(zone).ask("ns.c.example", "A").answer != [], "a name as others"


# --- EDNS, sizes, cookies -------------------------------------------------------------------------

MANY = tuple(member(number, Endpoint.of(f"10.0.1.{number}:80").pack()) for number in range(1, 61))
"""1,000 bytes of A records."""


def cookie_of(reply: dns.message.Message) -> bytes:
    return next((option.to_wire() for option in reply.options if option.otype == 10), b"")


def with_cookie(cookie: bytes) -> dict[str, object]:
    return {"use_edns": 0, "payload": 4096, "options": [dns.edns.GenericOption(10, cookie)]}


def test_the_example_of_rfc_9018():
    key = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
    client = bytes.fromhex("2464c4abcf10c957")
    asker = Address.of("198.51.100.100", 0)
    made = cookies.make_cookie(key, client, asker, 1559731985)
    assert made.hex() == "010000005cf79f111f8130c3eee29480"
    assert cookies.is_good(made, [key], client, asker, 1559731985 + 1800)


def test_a_large_answer_needs_a_proven_address():
    cut = Asked().ask("web.kdht", "A", MANY, use_edns=0, payload=4096)
    assert (cut.answer, cut.rcode(), bool(cut.flags & dns.flags.TC)) == ([], dns.rcode.NOERROR, True)
    assert len(Asked().ask("web.kdht", "A", MANY, stream=True).answer[0]) == 60
    assert len(Asked().ask("web.kdht", "A", MANY, LOCAL, use_edns=0, payload=4096).answer[0]) == 60
    assert Asked().ask("web.kdht", "A", MANY, LOCAL, use_edns=0, payload=600).flags & dns.flags.TC
    assert Asked().ask("web.kdht", "A", MANY, LOCAL).flags & dns.flags.TC, "without EDNS 512 bytes"


def test_a_cookie_proves_the_address():
    first = Asked().ask("web.kdht", "A", MANY, **with_cookie(CLIENT_COOKIE))
    assert (first.rcode(), first.answer) == (dns.rcode.BADCOOKIE, [])
    cookie = cookie_of(first)
    assert cookie.startswith(CLIENT_COOKIE)
    asked = Asked()
    again = asked.ask("web.kdht", "A", MANY, **with_cookie(cookie))
    assert (len(again.answer[0]), cookie_of(again), asked.counted) == (
        60,
        cookie,
        ["cookie_good", "answered"],
    )
    assert len(again.to_wire()) <= 1232
    other = Address.of("192.0.2.8", 1)
    assert Asked().ask("web.kdht", "A", MANY, other, **with_cookie(cookie)).rcode() == dns.rcode.BADCOOKIE


@pytest.mark.parametrize(
    ("key", "age", "good", "same"),
    [
        (KEY, 0, True, True),
        (KEY, 1700, True, True),
        (KEY, 1900, True, False),
        (KEY, 3700, False, False),
        (KEY, -200, True, True),
        (KEY, -400, False, False),
        (OLD_KEY, 5, True, False),
        (b"of another kdht.", 5, False, False),
    ],
)
@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_cookies_have_an_age_and_a_key(key, age, good, same, host):
    asker = Address.of(host, 1)
    cookie = CLIENT_COOKIE + cookies.make_cookie(key, CLIENT_COOKIE, asker, NOW - age)
    back, proven = cookies.answer_to(cookie, [KEY, OLD_KEY], asker, NOW)
    assert (proven, back == cookie) == (good, same)
    assert cookies.answer_to(back, [KEY], asker, NOW)[1]


@pytest.mark.parametrize("length", [0, 7, 9, 15, 41])
def test_cookies_of_other_lengths_are_malformed(length):
    option = dns.edns.GenericOption(10, bytes(length))
    query = dns.message.make_query("web.kdht", "A", use_edns=0, options=[option])
    assert dns.message.from_wire(Asked().bytes_for(query.to_wire())).rcode() == dns.rcode.FORMERR


def test_who_has_had_its_share_is_told_to_come_by_tcp():
    asked = Asked(amplifies=False)
    query = dns.message.make_query("web.kdht", "A").to_wire()
    cut = asked.bytes_for(query)
    assert dns.message.from_wire(cut).flags & dns.flags.TC
    assert len(cut) == len(query)
    assert asked.ask("web.kdht", "A", **with_cookie(CLIENT_COOKIE)).rcode() == dns.rcode.BADCOOKIE
    assert asked.ask("web.kdht", "A", stream=True).answer


def test_edns_comes_back_as_it_was_asked():
    reply = Asked().ask("web.kdht", "A", use_edns=0, want_dnssec=True)
    assert (reply.edns, reply.payload, bool(reply.ednsflags & dns.flags.DO)) == (0, 1232, True)
    assert Asked().ask("web.kdht", "A").edns == -1
    newer = dns.message.make_query("web.kdht", "A", use_edns=1).to_wire()
    assert dns.message.from_wire(Asked().bytes_for(newer)).rcode() == dns.rcode.BADVERS


# --- What is malformed ------------------------------------------------------------------------------


def test_other_operations_and_malformed_queries_get_a_header():
    query = dns.message.make_query("web.kdht", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    assert dns.message.from_wire(Asked().bytes_for(query.to_wire())).rcode() == dns.rcode.NOTIMP
    data = dns.message.make_query("web.kdht", "A").to_wire()
    for bad in (data[:-1], data + b"x", data[:5] + b"\2" + data[6:], data + bytes(4096)):
        reply = Asked().bytes_for(bad)
        assert (len(reply), dns.message.from_wire(reply).rcode()) == (12, dns.rcode.FORMERR)


ANSWER = dns.message.make_response(dns.message.make_query("web.kdht", "A")).to_wire()


@pytest.mark.parametrize("data", [b"", bytes(11), ANSWER], ids=["nothing", "stub", "answer"])
def test_answers_and_stubs_are_not_answered(data):
    with pytest.raises(BadPacket):
        Asked().bytes_for(data)


@settings(suppress_health_check=[HealthCheck.too_slow])  # so is a loaded machine
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))
def test_any_query_gets_an_answer_that_is_no_longer_than_allowed(changes):
    query = bytearray(dns.message.make_query("web.kdht", "SRV", **with_cookie(CLIENT_COOKIE)).to_wire())
    for at, byte in changes:
        query[at % len(query)] = byte
    try:
        answer = Asked(amplifies=False).bytes_for(bytes(query))
    except BadPacket:
        return
    dns.message.from_wire(answer)
    assert len(answer) <= len(query) + 16, "more than the server cookie"
