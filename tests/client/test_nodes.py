"""What a client knows of its nodes: round trips, who is dead, what hedges cost."""

import pytest

from kdht.client._hedging import HEDGE_BURST, HedgeBudget
from kdht.client._nodes import (
    ENOUGH_SAMPLES,
    LAST_PROBE,
    MAX_RTO,
    MEDIAN_STEP,
    MEDIANS,
    MIN_LATE,
    MIN_RTO,
    SILENT_TRIES,
    START_LATE,
    START_RTO,
    KnownNodes,
    RequestLatency,
)
from kdht.wire._shared import Op


def test_round_trips_are_smoothed_as_rfc_6298_says():
    trip = RequestLatency()
    assert (trip.late, trip.rto) == (START_LATE, START_RTO)
    trip.sample(0.1)
    assert trip.late == pytest.approx(0.1 + 4 * 0.05)
    trip.sample(0.2)
    usual = (0.1 * 7 / 8 + 0.2 / 8) + 4 * (0.05 * 3 / 4 + 0.1 / 4)
    assert trip.late == pytest.approx(usual)
    for _ in range(50):
        trip.sample(0.2)
    assert trip.rto == pytest.approx(2 * trip.late)
    for _ in range(100):
        trip.sample(0.0001)
    assert (trip.late, trip.rto) == (MIN_LATE, MIN_RTO)
    for _ in range(100):
        trip.sample(30.0)
    assert (trip.late, trip.rto) == (MAX_RTO, MAX_RTO)


def test_slow_answers_behind_dead_nodes_do_not_raise_the_rto():
    trip = RequestLatency()
    for number in range(200):
        trip.sample(0.25 if number % 4 == 0 else 0.005)
    assert 2 * trip.late > 0.5
    assert trip.rto < MEDIANS * 0.005 * MEDIAN_STEP**4


def test_the_rto_grows_if_all_answers_become_slow():
    trip = RequestLatency()
    for _ in range(50):
        trip.sample(0.005)
    for _ in range(50):
        trip.sample(0.5)
    assert trip.rto > 0.5


def test_a_node_with_few_answers_has_the_rto_of_all_nodes():
    nodes = KnownNodes(2)
    for _ in range(50):
        nodes.answered(0, Op.PUT, 0.005, 1.0)
    for _ in range(ENOUGH_SAMPLES - 1):
        nodes.answered(1, Op.PUT, 0.3, 1.0)
    assert nodes.round_trip(1, Op.PUT).rto < 0.3
    nodes.answered(1, Op.PUT, 0.3, 1.0)
    assert nodes.round_trip(1, Op.PUT).rto >= 0.3


def test_dead_nodes_are_left_out_of_the_round():
    nodes = KnownNodes(4)
    assert [nodes.after(node) for node in range(4)] == [1, 2, 3, 0]
    nodes.died(1, 0.0)
    nodes.died(2, 0.0)
    assert [nodes.after(node) for node in range(4)] == [3, 3, 3, 0]
    nodes.died(3, 0.0)
    assert nodes.after(0) == 0
    nodes.died(0, 0.0)
    assert nodes.after(0) == 1, "when all are dead, each gets its turn"


def test_requests_begin_at_the_next_living_node():
    nodes = KnownNodes(3)
    nodes.died(1, 0.0)
    assert nodes.current == 0
    nodes.died(0, 0.0)
    assert nodes.current == 2


def test_silent_tries_in_a_row_mark_a_node_dead_and_an_answer_alive():
    nodes = KnownNodes(2)
    for now in range(SILENT_TRIES - 1):
        nodes.missed(0, now, now)
    nodes.answered(0, Op.GET, 0.001, 10)
    for now in range(20, 20 + SILENT_TRIES - 1):
        nodes.missed(0, now, now)
        nodes.missed(0, now - 0.5, now)  # was under way together with the one before
    assert not nodes[0].dead
    nodes.missed(0, 30, 30)
    assert nodes[0].dead
    nodes.answered(0, Op.GET, None, 31)
    assert (nodes[0].dead, nodes[0].misses) == (False, 0)


def test_dead_nodes_are_probed_after_growing_waits():
    nodes = KnownNodes(2)
    nodes.died(0, 100.0)
    asked = [now for now in range(100, 300) if nodes.to_probe(float(now)) == 0]
    assert asked[:5] == [101, 103, 107, 115, 131]
    assert asked[5:] == list(range(161, 300, int(LAST_PROBE)))
    nodes.answered(0, Op.GET, 0.001, 200.0)
    nodes.died(0, 300.0)
    assert nodes.to_probe(301.0) == 0


def test_the_budget_fills_with_requests_and_empties_with_hedges():
    budget = HedgeBudget()
    taken = 0
    while budget.take():
        taken += 1
    assert taken == HEDGE_BURST
    for _ in range(11):
        budget.request()
    assert [budget.take(), budget.take()] == [True, False]
    budget.pay_back(2)
    assert [budget.take(), budget.take(), budget.take()] == [True, True, False]
    budget.pay_back(1000)
    assert budget.tokens == HEDGE_BURST
