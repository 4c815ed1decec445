"""Kept replies of MEMBERS: exact whatever the order of looks and changes, bounded, and fair."""

import random
import threading
from collections import Counter

import pytest

from kdht.storage._members_cache import MembersCache, drawn_part
from kdht.wire._shared import ID_LEN, MAX_BODY
from kdht.wire.sets import ANYWHERE, END, FIRST, HEAD_LEN, Member, MembersPage, pack_members, parse_members

NOW = 1_800_000_000.25
LATER = int(NOW) + 60


def key(number: int) -> bytes:
    return number.to_bytes(8, "big") * 2 + bytes(ID_LEN - 16)


def body_of(*expiries: int, total: int = 7, payload: bytes = b"payload") -> bytes:
    members = [Member(number, expiry, payload) for number, expiry in enumerate(expiries)]
    return pack_members(MembersPage(total, END, members))


def kept(
    cache: MembersCache,
    number: int,
    body: bytes,
    cursor: int = FIRST,
    part: int = 0,
    parts: int = 1,
    until: int = LATER,
) -> bool:
    return cache.keep(key(number), cache.begin(key(number)), cursor, part, parts, until, body)


def got(
    cache: MembersCache,
    number: int,
    cursor: int = FIRST,
    chance: int = 0,
    room: int = MAX_BODY,
    now: float = NOW,
) -> MembersPage | None:
    body = cache.get(key(number), cursor, chance, room, now)
    return None if body is None else parse_members(body)


@pytest.fixture
def cache() -> MembersCache:
    return MembersCache()


def test_a_kept_reply_has_the_seconds_left_at_each_look(cache):
    assert got(cache, 1) is None
    assert kept(cache, 1, body_of(LATER, LATER + 40))
    assert [member.ttl for member in got(cache, 1).members] == [59, 99]
    assert [member.ttl for member in got(cache, 1, now=NOW + 30).members] == [29, 69]
    # A second is left to whoever lives.
    assert [member.ttl for member in got(cache, 1, now=LATER - 0.5).members] == [1, 40]
    assert [got(cache, number, cursor) for number, cursor in ((2, FIRST), (1, 2), (1, ANYWHERE))] == [
        None
    ] * 3


def test_it_ends_with_the_first_record_of_its_set(cache):
    """The number of all members is another one then, though that record may be in none of these entries."""
    assert kept(cache, 1, body_of(LATER + 100), until=LATER)
    assert got(cache, 1, now=LATER - 0.01) is not None
    assert got(cache, 1, now=LATER) is None


def test_a_change_of_a_member_drops_all_replies_of_its_set(cache):
    assert kept(cache, 1, body_of(LATER))
    assert kept(cache, 1, body_of(LATER), cursor=ANYWHERE)
    assert kept(cache, 2, body_of(LATER))
    cache.changed(key(1)[:8] + bytes(range(12)))
    assert [got(cache, 1), got(cache, 1, ANYWHERE)] == [None, None]
    assert got(cache, 2) is not None


def test_a_reply_from_before_a_change_is_not_kept(cache):
    begun = cache.begin(key(1))
    cache.changed(key(1))
    assert not cache.keep(key(1), begun, FIRST, 0, 1, LATER, body_of(LATER))
    begun = cache.begin(key(1))
    cache.clear()
    assert not cache.keep(key(1), begun, FIRST, 0, 1, LATER, body_of(LATER))
    assert kept(cache, 1, body_of(LATER))
    cache.clear()
    assert got(cache, 1) is None


def test_a_reply_that_does_not_fit_is_left_to_others(cache):
    body = body_of(LATER)
    assert kept(cache, 1, body)
    assert got(cache, 1, room=len(body)) is not None
    assert got(cache, 1, room=len(body) - 1) is None
    assert not kept(cache, 2, bytes(MAX_BODY + 1))
    assert not kept(cache, 2, bytes(HEAD_LEN - 1))
    with pytest.raises(ValueError, match="20 bytes"):
        cache.begin(bytes(19))


def test_a_part_is_drawn_from_the_question_whether_it_is_kept_or_not(cache):
    """So a part that is kept is shown no more often than others."""
    parts = 8
    for part in range(0, parts, 2):
        assert kept(cache, 1, body_of(LATER, total=part), cursor=ANYWHERE, part=part, parts=parts)
    draw, shown = random.Random(1), Counter()
    for _ in range(8000):
        chance = draw.getrandbits(64)
        page, part = got(cache, 1, ANYWHERE, chance), drawn_part(chance, parts)
        shown[part] += 1
        if part % 2:
            assert page is None
        else:
            assert page.total == part
    assert all(900 < shown[part] < 1100 for part in range(parts))
    assert {drawn_part(chance, 1) for chance in (0, 1, 2**64 - 1)} == {0}


def test_many_sets_take_no_more_memory(cache):
    for number in range(5000):
        assert kept(cache, number, body_of(LATER, total=number))
    found = [page.total for number in range(5000) if (page := got(cache, number)) is not None]
    assert 500 < len(found) <= 2048
    assert all(got(cache, number).total == number for number in found)


def test_against_a_model_no_look_shows_an_older_state(cache):
    """Any order of looks and changes; a reader may be slow between `begin` and `keep`."""
    chance = random.Random(7)
    state: Counter[int] = Counter()
    slow: list[tuple[int, int, int]] = []
    for _ in range(20_000):
        number, what = chance.randrange(6), chance.random()
        if what < 0.3:
            state[number] += 1
            cache.changed(key(number))
        elif what < 0.5:
            slow.append((number, cache.begin(key(number)), state[number]))
        elif what < 0.7 and slow:
            number, begun, seen = slow.pop(chance.randrange(len(slow)))
            cache.keep(key(number), begun, FIRST, 0, 1, LATER, body_of(LATER, total=seen))
        else:
            page = got(cache, number)
            assert page is None or page.total == state[number]


def test_readers_beside_a_writer_see_whole_replies(cache):
    """The writer makes replies whose entries all have the number of the reply."""
    bodies = [body_of(*[LATER] * 50, total=total, payload=b"%06d" % total) for total in range(50)]
    ended = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not ended.is_set():
            page = got(cache, 1)
            if page is not None:
                assert {member.payload for member in page.members} == {b"%06d" % page.total}
                seen.append(page.total)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    while len(seen) < 1000:
        for body in bodies:
            kept(cache, 1, body)
            cache.changed(key(1))
            kept(cache, 1, body)
    ended.set()
    for reader in readers:
        reader.join()
