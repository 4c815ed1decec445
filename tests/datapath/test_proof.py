"""When a fast path counts as losing packets, and when it counts as whole again."""

import pytest

from kdht.datapath.proof import AGAIN_S, MISSES, MOST_NEEDED, NEEDED, PROVING_S, RELAPSE_S, Proof, Result

GOOD, LOST, UNKNOWN = Result


def given(proof: Proof, *results: Result, now: float = 0.0) -> bool:
    for result in results:
        proof.add(result, now)
    return proof.aside


def until_back(proof: Proof, now: float) -> int:
    """How many good proofs in a row bring it back."""
    count = 0
    while proof.aside:
        proof.add(GOOD, now)
        count += 1
    return count


def test_only_losses_in_a_row_take_it_aside():
    assert not given(Proof(), *[LOST] * (MISSES - 1), GOOD, *[LOST] * (MISSES - 1))
    assert given(Proof(), GOOD, *[LOST] * MISSES)


def test_a_silent_neighbour_proves_nothing():
    proof = Proof()
    assert not given(proof, *[UNKNOWN] * 50)
    assert given(proof, LOST, UNKNOWN, LOST, UNKNOWN, LOST), "it does not end a row either"
    assert proof.results == {GOOD: 0, LOST: 3, UNKNOWN: 52}


def test_good_proofs_in_a_row_bring_it_back():
    proof = Proof()
    given(proof, *[LOST] * MISSES)
    assert given(proof, GOOD, LOST, *[GOOD] * (NEEDED - 1))
    assert not given(proof, GOOD)


def test_a_relapse_takes_longer_up_to_a_bound():
    proof, needed = Proof(), []
    for _ in range(6):
        given(proof, *[LOST] * MISSES, now=1.0)
        needed.append(until_back(proof, 1.0))
    assert needed[:2] == [NEEDED, 2 * NEEDED]
    assert max(needed) == needed[-1] == MOST_NEEDED
    given(proof, *[LOST] * MISSES, now=1.0 + RELAPSE_S)
    assert until_back(proof, 2.0 + RELAPSE_S) == NEEDED


@pytest.mark.parametrize(("result", "pause_s"), [(GOOD, PROVING_S), (LOST, AGAIN_S)])
def test_a_loss_is_looked_into_at_once(result, pause_s):
    assert Proof().pause_s(result) == pause_s
