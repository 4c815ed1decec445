"""The model of joins: the rule before breaks the promise where three join at once, the present one in no state that was seen."""

from itertools import combinations

import pytest

from histories.joins.model import Setting
from histories.joins.rules import Former, Present
from histories.joins.search import follow, search

TOGETHER = [f"n{one} learns of n{other}" for one in (3, 4) for other in (3, 4, 5) if one != other] + [
    f"n{one} compares with n{other}" for one in (3, 4) for other in (3, 4, 5) if one != other
]
"""Two of three newcomers, which are closest, meet the others, and compare with them."""


def orders(old: int, new: int) -> list[tuple[int, ...]]:
    """All orders of distance in which the first nodes, which are alike, keep theirs, and the new ones too."""
    found = []
    for places in combinations(range(old + new), new):
        first, later = iter(range(old)), iter(range(old, old + new))
        found.append(tuple(next(later if place in places else first) for place in range(old + new)))
    return found


def test_three_joiners_break_the_promise_under_the_old_rule():
    _, broken = follow(Setting(3, 3, (3, 4, 5, 0, 1, 2)), Former(), TOGETHER)
    assert "may say NOT_FOUND, and take if_version=0" in broken


def test_the_current_rule_is_safe_with_three_joiners():
    state, broken = follow(Setting(3, 3, (3, 4, 5, 0, 1, 2)), Present(), TOGETHER)
    assert not broken
    assert not state.caught_up & 0b111000


@pytest.mark.parametrize(
    ("new", "how"),
    [(1, {}), (1, {"deaths": 1}), (2, {"remembers": False})],
    ids=["one joins", "one joins and one dies", "two join at once"],
)
def test_the_present_rule_keeps_the_promise_in_every_state(new: int, how: dict[str, int]):
    for order in orders(3, new):
        found = search(Setting(3, new, order, **how), Present())
        assert found.complete, (order, found)
