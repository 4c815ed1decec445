"""k-buckets, next hops and the nearest contacts, against the oracle that sorts them all."""

import random
from dataclasses import replace

import pytest
from builders import (
    id_sharing,
    make_node,
    packed,
    random_contact,
    random_table,
    usual_settings,
)
from hypothesis import given
from hypothesis import strategies as st

from kdht._routing import Core, common_bits
from kdht.replay.oracle import common_bits as slow_common_bits
from kdht.replay.oracle import distance
from kdht.wire import Address, Contact, Message
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Reason

SIZES = (0, 1, 2, 19, 20, 21, 200, 2000)
IDS = st.binary(min_size=shared.ID_LEN, max_size=shared.ID_LEN)


def random_node(rng: random.Random, size: int):
    settings = usual_settings(self_id=rng.randbytes(shared.ID_LEN))
    return make_node(settings, random_table(rng, settings.self_id, size))


def full_node(rng: random.Random):
    """Every bucket full, but for the deepest, for which there are too few IDs."""
    settings = usual_settings(self_id=rng.randbytes(shared.ID_LEN))
    offered = [id_sharing(rng, settings.self_id, index) for index in range(shared.ID_BITS) for _ in range(40)]
    return make_node(settings, (random_contact(rng, contact_id) for contact_id in dict.fromkeys(offered)))


def keys_for(rng: random.Random, node, count: int) -> list[bytes]:
    """Keys anywhere, keys near the node at every depth, its own ID and its contacts'."""
    self_id = node.settings.self_id
    near = [id_sharing(rng, self_id, rng.randrange(shared.ID_BITS)) for _ in range(count)]
    known = [contact.id for contact in node.slow.table.closest(self_id, 3)]
    return [
        *(rng.randbytes(shared.ID_LEN) for _ in range(count)),
        *near,
        *known,
        self_id,
        bytes(20),
        b"\xff" * 20,
    ]


def assert_same_answers(rng: random.Random, node, count: int = 20) -> None:
    table = node.slow.table
    assert node.core.occupancy() == table.occupancy()
    for key in keys_for(rng, node, count):
        for attempt in (0, 1, 2, 19, 20, 60, 255):
            assert node.core.next_hop(key, attempt) == table.next_hop(key, attempt), (key.hex(), attempt)
        for wanted in (1, 3, shared.K, 100):
            assert node.core.closest(key, wanted) == table.closest(key, wanted), (key.hex(), wanted)
            assert node.core.rank(key, wanted) == table.rank(key, wanted), (key.hex(), wanted)


# --- Against the oracle ------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_table_of_any_size_answers_as_the_oracle(size):
    rng = random.Random(size)
    for _ in range(3):
        assert_same_answers(rng, random_node(rng, size))


def test_a_full_table_answers_as_the_oracle():
    rng = random.Random(7)
    node = full_node(rng)
    held = [len(node.core.bucket(index)) for index in range(shared.ID_BITS)]
    assert held[:155] == [shared.K] * 155
    assert held[159] == 1
    assert_same_answers(rng, node, 10)


def test_answers_match_the_oracle_while_buckets_change():
    rng = random.Random(11)
    node = random_node(rng, 0)
    self_id = node.settings.self_id
    for _ in range(60):
        index = rng.choice((rng.randrange(6), rng.randrange(shared.ID_BITS)))
        ids = sorted(
            {id_sharing(rng, self_id, index) for _ in range(rng.choice((0, 1, 5, shared.K, shared.ROOM)))}
        )
        rng.shuffle(ids)
        contacts = [random_contact(rng, contact_id) for contact_id in ids]
        node.set_bucket(index, contacts)
        assert node.core.bucket(index) == contacts
        assert_same_answers(rng, node, 2)


@given(IDS, IDS)
def test_common_bits_match_the_oracle(a, b):
    assert common_bits(a, b) == slow_common_bits(a, b)
    assert common_bits(a, a) == shared.ID_BITS


@pytest.mark.parametrize("bits", [0, 1, 7, 8, 63, 64, 65, 127, 128, 159])
def test_an_id_shares_the_bits_that_it_was_made_for(bits):
    rng = random.Random(bits)
    own = rng.randbytes(shared.ID_LEN)
    assert all(common_bits(own, id_sharing(rng, own, bits)) == bits for _ in range(20))


# --- What the rule promises --------------------------------------------------------------


def test_every_hop_is_strictly_closer_and_the_last_is_the_closest():
    """500 nodes that know K random contacts of each bucket: Kademlia's own guarantee."""
    rng = random.Random(3)
    contacts = random_table(rng, bytes(shared.ID_LEN), 500)
    nodes = {}
    for contact in contacts:
        others = [other for other in contacts if other.id != contact.id]
        rng.shuffle(others)
        nodes[contact.id] = make_node(usual_settings(self_id=contact.id), others).core
    for _ in range(200):
        key = rng.randbytes(shared.ID_LEN)
        at = rng.choice(contacts).id
        while (hop := nodes[at].next_hop(key)) is not None:
            assert distance(hop.id, key) < distance(at, key)
            at = hop.id
        assert at == min(nodes, key=lambda node_id: distance(node_id, key))


def test_attempts_walk_through_the_closer_contacts_in_order():
    rng = random.Random(5)
    node = full_node(rng)
    key = rng.randbytes(shared.ID_LEN)
    closer = node.slow.table.closer(key)
    assert [node.core.next_hop(key, attempt) for attempt in range(256)] == closer[:256]


def test_a_retry_that_skips_all_closer_contacts_ends_here():
    first = Contact(b"\x80" + bytes(19), packed("10.0.0.2"), 5348)
    node = make_node(usual_settings(), [first])
    reasons = []
    for key, attempt in [
        (b"\xff" * 20, 0),
        (b"\xff" * 20, 1),
        (b"\xff" * 20, 255),
        (bytes(20), 0),
        (bytes(20), 9),
    ]:
        message = Message(op=Op.GET, key=key, request_id=1, attempt=attempt).pack()
        here = Address.of("10.0.0.1", 5348)
        reasons.append(node.core.decide_message(message, Address.of("10.0.0.99", 40000), here, 0).reason)
    assert reasons == [Reason.ENTERED, Reason.ATTEMPT_ENDS, Reason.ATTEMPT_ENDS, Reason.OWNER, Reason.OWNER]


def test_a_bucket_keeps_the_order_and_the_addresses_that_it_was_given():
    rng = random.Random(9)
    node = random_node(rng, 0)
    contacts = [random_contact(rng, id_sharing(rng, node.settings.self_id, 3)) for _ in range(shared.ROOM)]
    node.core.set_bucket(3, contacts)
    assert node.core.bucket(3) == contacts
    node.core.set_bucket(3, contacts[::-1][:5])
    assert node.core.bucket(3) == contacts[::-1][:5]
    node.core.set_bucket(3, [])
    assert node.core.bucket(3) == []
    assert node.core.occupancy() == 0


def test_a_new_configuration_keeps_the_table_and_a_new_id_empties_it():
    rng = random.Random(13)
    node = random_node(rng, 50)
    before = [node.core.bucket(index) for index in range(shared.ID_BITS)]
    arguments = vars(node.settings)
    node.core.configure(**{**arguments, "hop_limit": 3})
    assert [node.core.bucket(index) for index in range(shared.ID_BITS)] == before
    assert node.core.occupancy() == node.slow.table.occupancy()
    node.core.configure(**{**arguments, "self_id": rng.randbytes(shared.ID_LEN)})
    assert not any(node.core.bucket(index) for index in range(shared.ID_BITS))
    assert node.core.occupancy() == 0


# --- What is refused: ValueError, and nothing is published -----------------------------------

REFUSED = "bytes, not|number|belong|at most|no bucket|no port|bucket holds|at a time|at least a header"
GOOD = Contact(b"\x80" + bytes(19), packed("10.0.0.2"), 5348)


@pytest.mark.parametrize(
    ("index", "contacts"),
    [
        (-1, [GOOD]),
        (160, [GOOD]),
        (1, [GOOD]),
        (0, [GOOD] * (shared.ROOM + 1)),
        (0, [GOOD, GOOD._replace(id=bytes(20))]),
        (0, [GOOD._replace(id=bytes(19))]),
        (0, [GOOD._replace(ip=bytes(4))]),
        (0, [GOOD._replace(port=0)]),
        (0, [GOOD._replace(port=65536)]),
    ],
)  # fmt: skip
def test_an_invalid_bucket_is_refused(index, contacts):
    node = make_node(usual_settings(), [GOOD])
    with pytest.raises(ValueError, match=REFUSED):
        node.core.set_bucket(index, contacts)
    assert node.core.bucket(0) == [GOOD]
    assert node.core.occupancy() == 1 << 159


@pytest.mark.parametrize(
    "change",
    [
        {"self_id": bytes(19)},
        {"port": 0},
        {"port": 65536},
        {"own": [bytes(16)] * (shared.MAX_OWN + 1)},
        {"own": [bytes(4)]},
        {"source4": bytes(4)},
        {"source6": b""},
        {"keys": []},
        {"keys": [(1, bytes(shared.TAG_KEY_LEN))] * (shared.KEY_SLOTS + 1)},
        {"keys": [(1, bytes(15))]},
        {"keys": [(256, bytes(shared.TAG_KEY_LEN))]},
        {"keys": [(-1, bytes(shared.TAG_KEY_LEN))]},
        {"cookie_key": bytes(8)},
        {"window": -1},
        {"window": 1 << 32},
        {"hop_limit": 0},
        {"hop_limit": 256},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_an_invalid_configuration_is_refused(change):
    node = make_node(usual_settings(), [GOOD])
    with pytest.raises(ValueError, match=REFUSED):
        node.core.configure(**vars(replace(node.settings, **change)))
    assert node.core.bucket(0) == [GOOD]


def test_invalid_questions_are_refused():
    core = make_node(usual_settings(), [GOOD]).core
    for ask in (
        lambda: core.next_hop(bytes(19)),
        lambda: core.closest(bytes(21)),
        lambda: core.rank(b""),
        lambda: core.bucket(160),
        lambda: core.bucket(-1),
        lambda: core.counters(32),
        lambda: core.cookie(bytes(4), 0),
        lambda: core.seal(bytearray(111), 0),
        lambda: core.decide_packet(bytearray(60), 0, lane=32),
        lambda: common_bits(b"", bytes(20)),
    ):
        with pytest.raises(ValueError, match=REFUSED):
            ask()


def test_a_bucket_needs_a_configuration():
    with pytest.raises(ValueError, match="configure"):
        Core().set_bucket(0, [GOOD])


def test_addresses_of_a_wrong_length_are_refused():
    core = make_node(usual_settings(), [GOOD]).core
    here = Address.of("10.0.0.1", 5348)
    for source, target in [(Address(bytes(4), 1), here), (here, Address(b"", 1))]:
        with pytest.raises(ValueError, match=REFUSED):
            core.decide_message(bytearray(112), source, target, 0)


@pytest.mark.parametrize("change", ["self_id", "source4", "source6", "cookie_key"])
def test_only_bytes_are_accepted(change):
    node = make_node(usual_settings(), [GOOD])
    arguments = vars(node.settings)
    with pytest.raises(TypeError, match="bytes, not bytearray"):
        node.core.configure(**{**arguments, change: bytearray(arguments[change])})
    with pytest.raises(TypeError):
        node.core.set_bucket(0, [GOOD._replace(ip=bytearray(16))])
    assert node.core.bucket(0) == [GOOD]
