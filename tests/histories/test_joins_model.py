"""The model of joins: the rule before breaks the promise where three join at once, the present one in no state that was seen."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histories.joins.explore import explore, orders, program
from histories.joins.model import Setting
from histories.joins.rules import Former, Present
from histories.joins.search import follow, search

TOGETHER = [f"n{one} learns of n{other}" for one in (3, 4) for other in (3, 4, 5) if one != other] + [
    f"n{one} compares with n{other}" for one in (3, 4) for other in (3, 4, 5) if one != other
]
"""Two of three newcomers, which are closest, meet the others, and compare with them."""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("joins"))


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


@pytest.mark.parametrize(
    ("order", "how"),
    [
        ((3, 0, 1, 2), {}),
        ((0, 3, 1, 2), {"writes": 1}),
        ((0, 3, 1, 2), {"deaths": 1}),
        ((2, 0, 1), {"cuts": 1, "single": True, "remembers": False}),
        ((0, 3, 1, 4, 2), {"remembers": False}),
    ],
    ids=["join", "write", "death", "cut", "two join"],
)
def test_the_fast_search_sees_the_same_states(binary: Path, order: tuple[int, ...], how: dict[str, Any]):
    old = 3 if len(order) > 3 else 2
    setting = Setting(old, len(order) - old, order, **how)
    slow, fast = search(setting, Present()), explore(binary, setting, 1_000_000)
    assert slow.complete
    assert (fast.states, fast.complete, fast.broken) == (slow.states, True, slow.broken)


def test_three_joining_at_once_keep_the_promise_in_every_state(binary: Path):
    for order in orders(3, 3):
        found = explore(binary, Setting(3, 3, order, remembers=False), 10_000_000)
        assert found.complete, (order, found)


def test_two_joining_at_once_keep_the_promise_though_one_node_dies(binary: Path):
    for order in orders(3, 2):
        found = explore(binary, Setting(3, 2, order, deaths=1, remembers=False), 10_000_000)
        assert found.complete, (order, found)


def test_newcomers_that_are_cut_off_together_make_a_cluster_of_their_own(binary: Path):
    """A limit, as docs/design/replicas.md says. The steps of the fast search are steps of the model."""
    setting = Setting(3, 2, (3, 4, 0, 1, 2), cuts=1, remembers=False)
    found = explore(binary, setting, 10_000_000)
    assert found.broken == "may say NOT_FOUND, and take if_version=0"
    assert "the network is cut: 7" in found.trace
    _, broken = follow(setting, Present(), found.trace)
    assert broken.endswith(found.broken)


def test_the_command_tells_the_states_of_each_order():
    command = [sys.executable, "-m", "histories.joins", "--new", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = msgspec.json.decode(done.stdout)
    assert [row["order"] for row in told] == ["3012", "0312", "0132", "0123"]
    assert all(row["complete"] and not row["broken"] for row in told)
