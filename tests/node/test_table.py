"""The routing table's books, against an obvious oracle and rule by rule."""

from random import Random

import pytest
from nodes import address_of

from kdht.node.table import Standing, Table
from kdht.node.table_contact import TableContact
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, ROOM, K

SELF = bytes(20)
NOW = 1000.0


class Published(dict[int, list[Contact]]):
    """What the datapaths would see."""

    def __call__(self, index: int, contacts: list[Contact]) -> None:
        self[index] = contacts

    def all(self) -> set[Contact]:
        return {contact for contacts in self.values() for contact in contacts}


def make_table(
    k: int = K, replacements: int = 8, self_id: bytes = SELF, replicas: int = 0
) -> tuple[Table, Published]:
    published = Published()
    return Table(self_id, published, k=k, replacements=replacements, replicas=replicas), published


def in_bucket(index: int, number: int) -> Contact:
    """A contact that shares `index` bits with SELF."""
    id = (1 << (ID_BITS - 1 - index) | number).to_bytes(20, "big")
    return Contact(id, *address_of(index << 8 | number))


def member(table: Table, contact: Contact, now: float = NOW) -> TableContact:
    assert table.answered(contact, 0.01, now) is Standing.ADDED
    entry = table.get(contact.id)
    assert entry is not None
    return entry


@pytest.mark.parametrize("index", [0, 1, 63, 64, 127, 128, 159])
def test_a_contact_is_in_the_bucket_of_its_common_bits(index: int) -> None:
    table, published = make_table()
    contact = in_bucket(index, 0)
    member(table, contact)
    assert published == {index: [contact]}
    assert table.index(contact.id) == table.deepest() == index


def test_the_own_id_has_no_bucket() -> None:
    table, _ = make_table()
    assert table.index(SELF) == ID_BITS
    assert table.deepest() == -1


def test_a_bucket_is_ordered_by_last_seen() -> None:
    table, _ = make_table()
    first, second, third = (member(table, in_bucket(3, n)) for n in range(3))
    table.answered(first.contact, 0.01, NOW + 1)
    table.heard(second, NOW + 2)
    assert table.oldest(3) is third
    table.heard(third, NOW + 3)
    assert table.oldest(3) is first


def test_a_full_bucket_keeps_its_members_and_remembers_newcomers() -> None:
    table, published = make_table(k=2, replacements=2)
    old = [in_bucket(3, n) for n in range(2)]
    for contact in old:
        member(table, contact)
    late = [in_bucket(3, n) for n in range(2, 6)]
    assert {table.answered(contact, 0.01, NOW) for contact in late} == {Standing.FULL}
    assert published[3] == old
    assert table.take_replacement(3) is None, "there is no room yet"
    table.remove(table.oldest(3))
    assert published[3] == old[1:]
    assert table.take_replacement(3) == late[-1], "the one heard of last"
    assert table.take_replacement(3) == late[-2]
    assert table.take_replacement(3) is None, "the cache is bounded"


def test_replacements_are_never_published() -> None:
    table, published = make_table(k=1)
    member(table, in_bucket(3, 0))
    table.remember(in_bucket(3, 1))
    table.remember(in_bucket(4, 1))
    assert published.all() == {in_bucket(3, 0)}
    assert len(table) == 1


def test_an_id_at_another_address_does_not_displace_the_old_one() -> None:
    table, published = make_table()
    contact = in_bucket(3, 0)
    entry = member(table, contact)
    moved = contact._replace(port=1)
    assert table.answered(moved, 0.01, NOW + 1) is Standing.ELSEWHERE
    assert published[3] == [contact]
    assert table.at(moved.address) is None
    table.remove(entry)
    assert table.take_replacement(3) == moved


def test_a_removed_contact_leaves_no_trace() -> None:
    table, published = make_table()
    entry = member(table, in_bucket(3, 0))
    table.remove(entry)
    assert published[3] == []
    assert table.get(entry.contact.id) is table.at(entry.contact.address) is None
    assert len(table) == 0
    assert table.deepest() == -1
    assert table.closest(SELF, K) == []


def test_simultaneous_missed_replies_count_as_one() -> None:
    table, _ = make_table()
    entry = member(table, in_bucket(3, 0))
    assert table.missed(entry, sent=NOW + 1, now=NOW + 2)
    assert not table.missed(entry, sent=NOW + 1.5, now=NOW + 2.5)
    assert table.missed(entry, sent=NOW + 2, now=NOW + 4)
    assert entry.misses == 2


def test_a_reply_resets_the_missed_count_and_a_request_does_not() -> None:
    table, _ = make_table()
    entry = member(table, in_bucket(3, 0))
    table.missed(entry, sent=NOW + 1, now=NOW + 2)
    table.heard(entry, NOW + 3)
    assert entry.misses == 1
    table.answered(entry.contact, 0.01, NOW + 4)
    assert entry.misses == 0
    assert not table.missed(entry, sent=NOW + 3, now=NOW + 5), "an answer overtook it"


def test_timeouts_follow_the_round_trip_time_within_bounds() -> None:
    entry = TableContact(in_bucket(3, 0), 0, 3, NOW)
    assert entry.timeout(1.0, 0.2, 5.0) == 1.0
    entry.sample(0.1)
    assert entry.timeout(1.0, 0.2, 5.0) == pytest.approx(0.1 + 4 * 0.05)
    for _ in range(100):
        entry.sample(0.1)
    assert entry.timeout(1.0, 0.2, 5.0) == 0.2
    for _ in range(10):
        entry.sample(9.0)
    assert entry.timeout(1.0, 0.2, 5.0) == 5.0


def test_status_is_plain_data() -> None:
    table, _ = make_table(k=1)
    member(table, in_bucket(3, 0))
    table.answered(in_bucket(3, 1), 0.01, NOW)
    (bucket,) = table.status(NOW + 7)
    assert bucket == {
        "index": 3,
        "replacements": 1,
        "contacts": [
            {
                "id": in_bucket(3, 0).id.hex(),
                "address": str(in_bucket(3, 0).address),
                "age": 7.0,
                "seen": 7.0,
                "rtt_ms": 10.0,
                "clock": None,
                "failures": 0,
                "demoted": False,
            }
        ],
    }


@pytest.mark.parametrize("seed", range(5))
def test_random_changes_match_an_oracle(seed: int) -> None:
    rng = Random(seed)
    self_id = rng.randbytes(20)
    table, published = make_table(k=4, self_id=self_id)
    oracle: dict[bytes, Contact] = {}
    for step in range(1500):
        if oracle and rng.random() < 0.4:
            id = rng.choice(list(oracle))
            entry = table.get(id)
            assert entry is not None
            table.remove(entry)
            del oracle[id]
        else:
            id = near(rng, self_id)
            if id in oracle:
                continue
            contact = Contact(id, *address_of(step))
            room = sum(shared_bits(self_id, each) == shared_bits(self_id, id) for each in oracle) < 4
            standing = table.answered(contact, 0.01, NOW + step)
            assert standing is (Standing.ADDED if room else Standing.FULL)
            if room:
                oracle[contact.id] = contact
        assert published.all() == set(oracle.values())
        compare_closest(rng, table, self_id, oracle)


def compare_closest(rng: Random, table: Table, self_id: bytes, oracle: dict[bytes, Contact]) -> None:
    key = near(rng, self_id) if rng.random() < 0.5 else rng.randbytes(20)
    number, count = int.from_bytes(key, "big"), rng.randrange(1, 30)
    without = rng.choice([b"", *oracle])
    ordered = sorted(oracle.values(), key=lambda contact: int.from_bytes(contact.id, "big") ^ number)
    expected = [contact for contact in ordered if contact.id != without][:count]
    assert table.closest(key, count, without) == expected


def near(rng: Random, id: bytes) -> bytes:
    """An ID that shares some bits, mostly few and sometimes all but one, with another."""
    flip = 1 << rng.choice([159, 158, 157, 156, 150, 100, 64, 31, 1, 0])
    return ((int.from_bytes(id, "big") ^ flip) ^ rng.randrange(flip)).to_bytes(20, "big")


def shared_bits(a: bytes, b: bytes) -> int:
    pairs = zip(*(f"{int.from_bytes(id, 'big'):0160b}" for id in (a, b)), strict=True)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), ID_BITS)


def tables_of(count: int, rng: Random) -> list[Table]:
    """Tables of so many nodes, each full of whom its buckets have room for."""
    contacts = [Contact(rng.randbytes(20), *address_of(number)) for number in range(count)]
    tables = []
    for own in contacts:
        table, _ = make_table(self_id=own.id)
        for contact in rng.sample(contacts, count):
            if contact is not own:
                table.answered(contact, 0.01, NOW)
        tables.append(table)
    return tables


@pytest.mark.parametrize("count", [2, 3, 8, 21, 32, 40, 64, 200])
@pytest.mark.parametrize("seed", range(5))
def test_every_node_is_somebodys_successor_in_the_ring(count: int, seed: int) -> None:
    tables = tables_of(count, Random(f"{seed}/{count}"))
    rings = {table.self_id: [entry.contact.id for entry in table.ring()] for table in tables}
    assert {ring[0] for ring in rings.values()} == set(rings)
    for own, ring in rings.items():
        assert len(ring) < 2 * K + 3
        for place, other in enumerate(ring):
            assert rings[other] == [*ring[place + 1 :], own, *ring[:place]], "all see the same ring"


def test_a_demoted_member_is_published_again_when_it_answers() -> None:
    table, published = make_table()
    one, other = (member(table, in_bucket(3, n)) for n in range(2))
    table.demote(one)
    assert published[3] == [other.contact]
    assert set(table.closest(SELF, 5)) == {one.contact, other.contact}
    table.answered(one.contact, 0.01, NOW + 1)
    assert set(published[3]) == {one.contact, other.contact}


def test_a_bucket_of_fellow_replicas_leaves_nobody_out() -> None:
    table, published = make_table(replicas=3)
    table.warm = True
    for number in range(ROOM):
        member(table, in_bucket(0, number))
    assert len(published[0]) == ROOM
    assert table.answered(in_bucket(0, ROOM), 0.01, NOW) is Standing.FULL


def test_a_bucket_behind_enough_closer_nodes_has_k_places() -> None:
    table, _ = make_table(replicas=3)
    table.warm = True
    for number in range(K):
        member(table, in_bucket(0, number))
    assert table.wide() == [0]
    entries = [member(table, in_bucket(index, 0)) for index in (1, 2)]
    assert table.wide() == []
    assert table.answered(in_bucket(0, K), 0.01, NOW) is Standing.FULL
    table.remove(entries[0])
    assert table.wide() == [0]
    member(table, in_bucket(0, K))


def test_no_bucket_is_wide_before_the_closest_nodes_are_known() -> None:
    table, _ = make_table(replicas=3)
    for number in range(K):
        member(table, in_bucket(0, number))
    assert table.answered(in_bucket(0, K), 0.01, NOW) is Standing.FULL
