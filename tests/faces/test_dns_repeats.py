"""Answers that are repeated with other numbers, against the same answers made by dnspython."""

import math
import random

import dns.flags
import dns.message
import dns.name

from kdht.faces.dns.answers import Answerer, Question, Zone
from kdht.faces.dns.lookups import Known
from kdht.faces.dns.records import Entry, entry_of_member
from kdht.faces.dns.repeats import MAX_REPEATED, Repeats, again
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address
from kdht.wire.sets import Member

ZONE_TTL = 5
ZONE = Zone(
    origin=dns.name.from_text("kdht."), nameservers=[], addresses=["10.0.0.1"], ttl=ZONE_TTL, negative_ttl=7
)
ASKER = Address.of("127.0.0.1", 40000)
PAYLOADS = (b"10.0.0.7:80", b"[fd00::7]:80", b"10.0.0.8", b"a text", b"x" * 300)
NAMES = (
    "web.kdht",
    "WEB.kdht",
    "_http._tcp.web.kdht",
    "0000000000000001.web.kdht",
    "_tcp.web.kdht",
    "a.web.kdht",
)
KINDS = ("A", "AAAA", "SRV", "TXT", "ANY", "NS")
STEADY = SteadyTime(0.0)


def known_of(rng: random.Random, entries: list[Entry], shape: object, now: float) -> Known:
    """The same entries read again: with other ends, and older."""
    moved = tuple(
        entry._replace(expiry=now + rng.choice((0.5, 2, 4, 4.5, 5, 60, math.inf))) for entry in entries
    )
    soonest = min((entry.expiry for entry in moved), default=math.inf)
    return Known(moved, shape, soonest, ZONE_TTL - (rng.randrange(ZONE_TTL) if moved else 0))


def judged(answerer: Answerer, data: bytes, now: float) -> Question:
    question = answerer.judge(data, ASKER, UnixTime(now), stream=False)
    assert isinstance(question, Question)
    return question


def lines(answer: bytes) -> list[str]:
    """All that it says, TTLs and serial numbers too. dnspython shuffles the records of an answer."""
    return sorted(dns.message.from_wire(answer).to_text().splitlines())


def test_a_repeated_answer_is_the_one_that_dnspython_would_make():
    rng = random.Random(7)
    answerer = Answerer(ZONE, [bytes(16)], lambda asker, now: True, lambda event: None)
    repeated = 0
    for _ in range(1500):
        begun = 1_800_000_000 + rng.random()
        entries = [
            entry_of_member(Member(number, 60, rng.choice(PAYLOADS)), begun)
            for number in range(rng.randrange(4))
        ]
        shape = object()
        known = known_of(rng, entries, shape, begun)
        edns = rng.choice(({}, {"use_edns": 0, "payload": 4096}))
        data = dns.message.make_query(rng.choice(NAMES), rng.choice(KINDS), **edns).to_wire()
        question = judged(answerer, data, begun)
        repeats = Repeats()
        first = answerer.answer(question, known.entries, UnixTime(begun), STEADY, known.most_ttl)
        repeats.keep(data, question, known if question.wanted else None, first, UnixTime(begun))
        kept = repeats.find(b"id" + data[2:], loopback=True)
        if kept is None:
            assert dns.message.from_wire(first).flags & dns.flags.TC
            continue
        for _ in range(4):
            now = begun + rng.choice((0.0, 0.1, 0.9, 1.0, 3.7, 900.0))
            later = known_of(rng, entries, shape, now) if rng.random() < 0.8 else known
            answer = again(kept, later if kept.name else None, data[:2], UnixTime(now))
            if answer is None:
                continue
            repeated += 1
            if answer[2:] == first[2:] and int(now) == int(begun) and later.soonest == known.soonest:
                continue  # Within one second the TTLs are those of its first answer.
            asked = judged(answerer, data, now)
            expected = answerer.answer(asked, later.entries, UnixTime(now), STEADY, later.most_ttl)
            assert lines(answer) == lines(expected)
            assert len(answer) == len(expected)
    assert repeated > 2000


def test_an_answer_of_another_shape_is_not_repeated():
    answerer = Answerer(ZONE, [bytes(16)], lambda asker, now: True, lambda event: None)
    data = dns.message.make_query("web.kdht", "A").to_wire()
    now = UnixTime(1_800_000_000.0)
    known = Known((entry_of_member(Member(1, 60, PAYLOADS[0]), now),), object(), now + 60, ZONE_TTL)
    repeats, question = Repeats(), judged(answerer, data, now)
    repeats.keep(data, question, known, answerer.answer(question, known.entries, now, STEADY), now)
    kept = repeats.find(data, loopback=True)
    assert kept is not None
    assert again(kept, known, b"id", now) is not None
    assert again(kept, known._replace(shape=object()), b"id", now) is None
    assert again(kept, None, b"id", now) is None
    assert repeats.find(data, loopback=False) is None, "from elsewhere it may be too long"


def test_of_several_addresses_each_asker_gets_another_one_first():
    answerer = Answerer(ZONE, [bytes(16)], lambda asker, now: True, lambda event: None)
    data = dns.message.make_query("web.kdht", "A", use_edns=0).to_wire()
    now = UnixTime(1_800_000_000.0)
    web = tuple(entry_of_member(Member(number, 60, b"10.0.0.%d:80" % number), now) for number in range(1, 4))
    known = Known(web, object(), now + 60, ZONE_TTL)
    repeats, question = Repeats(), judged(answerer, data, now)
    repeats.keep(data, question, known, answerer.answer(question, web, now, STEADY), now)
    kept = repeats.find(data, loopback=True)
    assert kept is not None
    replies = [dns.message.from_wire(again(kept, known, b"id", now) or b"") for _ in range(6)]
    assert {frozenset(rdata.address for rdata in reply.answer[0]) for reply in replies} == {
        frozenset(f"10.0.0.{number}" for number in range(1, 4))
    }
    firsts = [reply.answer[0][0].address for reply in replies]
    assert len(set(firsts[:3])) == 3
    assert firsts[:3] == firsts[3:]


def test_the_memory_of_answers_has_a_bound(monkeypatch):
    monkeypatch.setattr("kdht.faces.dns.repeats.MAX_REPEATED", 2)
    answerer = Answerer(ZONE, [bytes(16)], lambda asker, now: True, lambda event: None)
    now, repeats, known = UnixTime(1_800_000_000.0), Repeats(), Known((), object(), math.inf, ZONE_TTL)
    asked = [dns.message.make_query(f"n{number}.kdht", "A").to_wire() for number in range(3)]
    for data in asked:
        question = judged(answerer, data, now)
        repeats.keep(data, question, known, answerer.answer(question, (), now, STEADY), now)
    assert [repeats.find(data, loopback=True) is not None for data in asked] == [False, True, True]
    assert MAX_REPEATED > 1000
