"""When a fast path counts as losing packets, and when it counts as whole again."""

import pytest

from kdht.datapath.path_check import (
    AGAIN_S,
    MISSES,
    MOST_NEEDED,
    NEEDED,
    PAUSE_S,
    RELAPSE_S,
    PathCheck,
    Result,
)

GOOD, LOST, UNKNOWN = Result


def given(check: PathCheck, *results: Result, now: float = 0.0) -> bool:
    for result in results:
        check.add(result, now)
    return check.aside


def until_back(check: PathCheck, now: float) -> int:
    """How many good checks in a row bring it back."""
    count = 0
    while check.aside:
        check.add(GOOD, now)
        count += 1
    return count


def test_only_losses_in_a_row_take_it_aside():
    assert not given(PathCheck(), *[LOST] * (MISSES - 1), GOOD, *[LOST] * (MISSES - 1))
    assert given(PathCheck(), GOOD, *[LOST] * MISSES)


def test_a_silent_neighbour_is_no_loss():
    check = PathCheck()
    assert not given(check, *[UNKNOWN] * 50)
    assert given(check, LOST, UNKNOWN, LOST, UNKNOWN, LOST), "it does not end a row either"
    assert check.results == {GOOD: 0, LOST: 3, UNKNOWN: 52}


def test_good_checks_in_a_row_bring_it_back():
    check = PathCheck()
    given(check, *[LOST] * MISSES)
    assert given(check, GOOD, LOST, *[GOOD] * (NEEDED - 1))
    assert not given(check, GOOD)


def test_a_relapse_takes_longer_up_to_a_bound():
    check, needed = PathCheck(), []
    for _ in range(6):
        given(check, *[LOST] * MISSES, now=1.0)
        needed.append(until_back(check, 1.0))
    assert needed[:2] == [NEEDED, 2 * NEEDED]
    assert max(needed) == needed[-1] == MOST_NEEDED
    given(check, *[LOST] * MISSES, now=1.0 + RELAPSE_S)
    assert until_back(check, 2.0 + RELAPSE_S) == NEEDED


@pytest.mark.parametrize(("result", "pause_s"), [(GOOD, PAUSE_S), (LOST, AGAIN_S)])
def test_a_loss_is_looked_into_at_once(result, pause_s):
    assert PathCheck().pause_s(result) == pause_s
