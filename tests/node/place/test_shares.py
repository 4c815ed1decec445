"""Who owns and keeps how much, and where a newcomer serves best: exact figures against obvious ones."""

from collections import Counter
from itertools import combinations
from random import Random

import pytest

from bench.sim import shares as sim
from kdht.node.place.shares import depths, kept, least_greatest, move_that_helps, owned
from kdht.node.place.survey import Survey
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_BITS, ID_LEN, PORT, K

SIZES = (1, 2, 3, 4, 7, 12, 24, 60)


def some_ids(count: int, seed: int) -> list[int]:
    rng = Random(f"{count} {seed}")
    return sorted(rng.getrandbits(ID_BITS) for _ in range(count))


def contact(id: int) -> Contact:
    return Contact(id.to_bytes(ID_LEN, "big"), *Address.of("10.0.0.1", PORT))


# --- Shares


@pytest.mark.parametrize("bits", [3, 6])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_shares_equal_a_count_of_all_keys(bits: int, replicas: int) -> None:
    """In a space so small that each key can be tried."""
    rng = Random(bits * replicas)
    low = ID_BITS - bits
    for count in range(1, 2**bits + 1, 3):
        ids = sorted(rng.sample(range(2**bits), count))
        counted = [0] * count
        for key in range(2**bits):
            for id in sorted(ids, key=lambda id: id ^ key)[:replicas]:
                counted[ids.index(id)] += 1
        assert kept([id << low for id in ids], replicas) == [each / 2**bits for each in counted]


@pytest.mark.parametrize("count", SIZES)
def test_no_choice_of_ids_beats_the_least_possible_share(count: int) -> None:
    for seed in range(50):
        ids = some_ids(count, seed)
        assert sum(owned(ids)) == 1
        assert max(owned(ids)) * count >= least_greatest(count)


@pytest.mark.parametrize("count", range(1, 8))
def test_the_least_possible_greatest_share_is_exact(count: int) -> None:
    """Of all sets of IDs of four bits, by counting the keys that each of them owns."""
    best = 16
    for ids in combinations(range(16), count):
        counted = Counter(min(ids, key=lambda id: id ^ key) for key in range(16))
        best = min(best, max(counted.values()))
    assert count * best / 16 == least_greatest(count)


def test_halving_the_widest_gap_is_the_best_at_each_size() -> None:
    """The IDs chosen for n nodes are the first n of those for more: nobody needs to know how many will come."""
    bits = 6
    for count in range(1, 2**bits + 1):
        ids = sorted(int(f"{n:0{bits}b}"[::-1], 2) << (ID_BITS - bits) for n in range(count))
        assert max(owned(ids)) * count == least_greatest(count)


def test_seven_nodes_cannot_keep_below_1_5_times_the_mean() -> None:
    """Shares are powers of two: were none of seven above 1/8, together they would have 7/8."""
    assert least_greatest(7) == 1.75
    assert [least_greatest(count) for count in (3, 6, 8, 12, 24)] == [1.5, 1.5, 1.0, 1.5, 1.5]


def test_the_least_owner_moves_into_the_greatest_share() -> None:
    top = ID_BITS - 3
    ids = [0b000 << top, 0b100 << top, 0b110 << top, 0b111 << top]
    assert depths(ids) == [1, 2, 3, 3]
    assert move_that_helps(ids) == (2, 0)
    assert move_that_helps([0b000 << top, 0b010 << top, 0b100 << top, 0b110 << top]) is None
    assert move_that_helps(ids[:1]) is move_that_helps(ids[:2]) is move_that_helps([]) is None


# --- Surveys


def surveyed(nodes: sim.Nodes, **options: int) -> Survey:
    """A finished survey of these nodes, who answer as if they knew all."""
    survey = Survey(nodes.rng, **options)
    survey.learn([contact(nodes.ids[0])])
    while questions := survey.questions(8):
        for question in questions:
            survey.answered(question, nodes.closest(question))
    return survey


@pytest.mark.parametrize("count", [*SIZES, 300])
@pytest.mark.parametrize("seed", range(4))
def test_the_widest_gap_is_found(count: int, seed: int) -> None:
    nodes = sim.Nodes(seed)
    nodes.ids = some_ids(count, seed)
    best = surveyed(nodes).gaps()[0]
    assert 2.0**-best.depth == max(owned(nodes.ids))
    middle = int.from_bytes(best.middle(nodes.rng), "big")
    grown = sorted([*nodes.ids, middle])
    shares = dict(zip(grown, owned(grown), strict=True))
    assert shares[middle] == shares[int.from_bytes(best.owner.id, "big")] == 2.0 ** -(best.depth + 1)


def test_a_survey_of_a_large_cluster_is_bounded() -> None:
    nodes = sim.Nodes(1)
    nodes.ids = some_ids(3000, 1)
    survey = Survey(nodes.rng, limit=40)
    survey.learn([contact(nodes.ids[0])])
    asked = 0
    while questions := survey.questions(8):
        asked += len(questions)
        for question in questions:
            survey.answered(question, nodes.closest(question))
    assert asked == 40
    assert 2.0 ** -survey.gaps()[0].depth >= 2 / 3000


def test_gaps_of_silent_or_unreachable_nodes_are_not_taken() -> None:
    nodes = sim.Nodes(2)
    nodes.ids = some_ids(12, 2)
    out_of_reach, mute = contact(nodes.ids[3]), contact(nodes.ids[7])
    survey = Survey(nodes.rng, lambda contact: contact != out_of_reach)
    survey.learn([contact(nodes.ids[0])])
    while questions := survey.questions(8):
        for question in questions:
            assert question.contact != out_of_reach
            if question.contact == mute:
                survey.failed(question)
            else:
                survey.answered(question, nodes.closest(question))
    assert len(survey) == 12
    assert not {gap.owner for gap in survey.gaps()} & {out_of_reach, mute}


def test_a_claimed_gap_is_not_offered_again() -> None:
    nodes = sim.Nodes(3)
    nodes.ids = some_ids(5, 3)
    survey = surveyed(nodes)
    before = survey.gaps()
    survey.is_taken(before[0])
    after = survey.gaps()
    assert {gap.owner: gap.depth for gap in after}[before[0].owner] == before[0].depth + 1
    assert len(survey.contacts()) == 5, "who is only coming is no member"


def test_endless_contacts_cause_no_extra_questions() -> None:
    """A liar answers every question with as many new nodes as it may, each closer than the last."""
    rng = Random(4)
    survey = Survey(rng)
    survey.learn([contact(1 << 100)])
    asked = 0
    while questions := survey.questions(8):
        asked += len(questions)
        for question in questions:
            target = int.from_bytes(question.target, "big")
            survey.answered(question, [contact(target ^ rng.getrandbits(40)) for _ in range(K)])
    assert asked <= 160


# --- The simulation


@pytest.mark.parametrize("count", [3, 7, 12, 24, 50])
def test_choosing_newcomers_reach_the_least_possible_share(count: int) -> None:
    figures = sim.run(count, range(3), replicas=3)["ways"]
    for way in ("one by one", "together", "churn, replaced", "churn, moved"):
        assert figures[way]["of_the_possible"]["worst"] == 1.0, way
        assert figures[way]["keeper"]["worst"] <= 1.65, way
    assert figures["one by one"]["worst_on_the_way"]["worst"] == 1.0
