"""The iterative lookup as a state machine, in worlds that are dictionaries of who knows whom."""

from collections.abc import Callable, Iterable
from random import Random

import pytest
from nodes import contact_of

from kdht.node.lookup import MAX_QUERIES_PER_K, Lookup
from kdht.wire import Contact

Answer = Callable[[Contact], Iterable[Contact] | None]


def distance_to(target: bytes) -> Callable[[Contact], int]:
    return lambda contact: int.from_bytes(contact.id, "big") ^ int.from_bytes(target, "big")


def run(lookup: Lookup, answer: Answer, rng: Random) -> list[Contact]:
    """Let a lookup run, answers in random order; whom it asked, in order."""
    asked: list[Contact] = []
    waiting: list[Contact] = []
    while not lookup.done:
        taken = lookup.take()
        asked += taken
        waiting += taken
        assert waiting, "the lookup wants nothing and is not done"
        contact = waiting.pop(rng.randrange(len(waiting)))
        named = answer(contact)
        if named is None:
            lookup.failed(contact.id)
        else:
            lookup.answered(contact.id, named)
    return asked


def make_world(count: int, k: int, rng: Random) -> dict[Contact, list[Contact]]:
    """Everybody knows the k closest and some others, as tables of Kademlia would."""
    contacts = [contact_of(number) for number in range(count)]
    world = {}
    for contact in contacts:
        others = sorted((c for c in contacts if c != contact), key=distance_to(contact.id))
        world[contact] = others[:k] + rng.sample(others, min(len(others), 8))
    return world


def start(target: bytes, seeds: Iterable[Contact], k: int = 8, alpha: int = 3) -> Lookup:
    return Lookup(target, seeds, self_id=bytes(20), k=k, alpha=alpha)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_a_lookup_ends_with_the_k_closest_that_live(seed: int, dead: float) -> None:
    rng = Random(seed)
    world = make_world(200, 16, rng)
    target = rng.randbytes(20)
    seeds = rng.sample(list(world), 5)
    alive = set(seeds) | {contact for contact in world if rng.random() >= dead}
    lookup = start(target, seeds)

    def answer(contact: Contact) -> list[Contact] | None:
        near = sorted(world[contact], key=distance_to(target))[:16]
        return near if contact in alive else None

    asked = run(lookup, answer, rng)
    assert lookup.closest() == sorted(alive, key=distance_to(target))[:8]
    assert len(asked) == len(set(asked))


def test_a_lookup_asks_alpha_then_all_k() -> None:
    contacts = sorted((contact_of(n) for n in range(20)), key=distance_to(bytes(20)))
    lookup = Lookup(bytes(20), contacts, self_id=b"\xff" * 20, k=8, alpha=3)
    first = lookup.take()
    assert first == contacts[:3]
    assert lookup.take() == []
    lookup.answered(first[0].id, [])
    lookup.answered(first[1].id, [])
    assert lookup.take() == contacts[3:5]
    lookup.answered(first[2].id, [])
    assert lookup.take() == contacts[5:8], "three answers named nobody closer"


def test_failed_contacts_are_not_among_the_k() -> None:
    contacts = sorted((contact_of(n) for n in range(12)), key=distance_to(bytes(20)))
    lookup = Lookup(bytes(20), contacts, self_id=b"\xff" * 20, k=4, alpha=3)
    gone = set(contacts[:6])
    run(lookup, lambda contact: None if contact in gone else [], Random(0))
    assert lookup.closest() == contacts[6:10]


@pytest.mark.parametrize("seeds", [[], [contact_of(1)]])
def test_a_lookup_without_answers_finds_nobody(seeds: list[Contact]) -> None:
    lookup = start(bytes(20), seeds)
    assert run(lookup, lambda contact: None, Random(0)) == seeds
    assert lookup.closest() == []


def test_this_node_is_never_asked() -> None:
    me, other = contact_of(1), contact_of(2)
    lookup = Lookup(me.id, [other], self_id=me.id, k=8, alpha=3)
    assert run(lookup, lambda contact: [me], Random(0)) == [other]


def test_an_address_is_asked_under_one_id_until_that_fails() -> None:
    liar, other = contact_of(1), contact_of(2)
    many = [Contact(contact_of(n).id, *other.address) for n in range(10, 30)]
    lookup = start(bytes(20), [liar])
    asked = run(lookup, lambda contact: [*many, other] if contact == liar else [], Random(0))
    assert asked == [liar, many[0]]


def test_a_lookup_gives_up_on_endless_closer_contacts() -> None:
    number = iter(range(10**6))
    lookup = start(bytes(20), [contact_of(0)], k=8)

    def answer(contact: Contact) -> list[Contact]:
        closer = int.from_bytes(contact.id, "big") * 999 // 1000
        ids = (max(closer - n, 1).to_bytes(20, "big") for n in range(20))
        return [Contact(id, *contact_of(next(number)).address) for id in ids]

    assert len(run(lookup, answer, Random(0))) == 8 * MAX_QUERIES_PER_K
    assert len(lookup.closest()) == 8
