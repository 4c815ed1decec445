"""The abstract cluster of histories.joins: a node that joins during a write, in every order of events."""

import pytest

from histories.joins.model import Setting
from histories.joins.rules import AnybodyConfirms, Present
from histories.joins.search import search

ORDERS = ((3, 0, 1, 2), (0, 3, 1, 2), (0, 1, 3, 2))
"""The nodes by distance to the key; node 3 joins."""


@pytest.mark.parametrize("order", ORDERS)
def test_a_write_during_a_join_is_seen_by_all_quorum_reads(order: tuple[int, ...]):
    found = search(Setting(3, 1, order, writes=1), Present())
    assert not found.broken, found.trace
    assert found.complete


@pytest.mark.parametrize("order", ORDERS)
def test_a_joiner_that_confirms_before_it_has_caught_up_hides_a_write(order: tuple[int, ...]):
    found = search(Setting(3, 1, order, writes=1), AnybodyConfirms())
    assert found.broken.endswith("may answer a quorum read with less than what was acknowledged")
