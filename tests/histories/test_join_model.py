"""Nodes that join during writes: the abstract cluster of histories.joins, in every order of events, and drawn schedules."""

import pytest

from histories.joins.model import Setting
from histories.joins.rules import AnybodyConfirms, Present
from histories.joins.search import search
from histories.virtual.play import play
from histories.virtual.schedule import draw
from kdht.node.replicas import coordinator, writes

ORDERS = ((3, 0, 1, 2), (0, 3, 1, 2), (0, 1, 3, 2))
"""The nodes by distance to the key; node 3 joins."""


@pytest.mark.parametrize("order", ORDERS)
def test_a_write_during_a_join_is_seen_by_all_quorum_reads(order: tuple[int, ...]):
    found = search(Setting(3, 1, order, writes=1), Present())
    assert not found.broken, found.trace
    assert found.complete


@pytest.mark.parametrize("order", ORDERS)
def test_a_joiner_that_confirms_too_early_hides_a_write(order: tuple[int, ...]):
    found = search(Setting(3, 1, order, writes=1), AnybodyConfirms())
    assert found.broken.endswith("may answer a quorum read with less than what was acknowledged")


@pytest.mark.parametrize("old_rule", [False, True])
def test_random_joins_break_the_promise_if_any_holder_confirms(
    monkeypatch: pytest.MonkeyPatch, old_rule: bool
):
    if old_rule:
        made = coordinator.CoordinatorContext
        monkeypatch.setattr(writes, "is_behind", lambda body: False)
        monkeypatch.setattr(
            coordinator, "CoordinatorContext", lambda **parts: made(**{**parts, "holds": lambda key: True})
        )
    broken = [seed for seed in (2143, 2144) if play(draw(seed, "growth")).violations]
    assert bool(broken) == old_rule
