"""When a request is tried again, by which route and through which node: the policy by itself."""

import random

import pytest
from exchanges import GET, PUT

from kdht.client import _calls as calls
from kdht.client._calls import Call
from kdht.client._datagram import MAX_ATTEMPTS, Sent
from kdht.client._hedging import HEDGE_BURST, HedgeBudget
from kdht.client._nodes import MAX_RTO, START_LATE, START_RTO, KnownNodes
from kdht.client._retries import (
    JITTER,
    MAX_BOUNCES,
    MAX_HEDGES,
    MAX_PAUSE,
    MAX_TRIES_THROUGH_ONE,
    RetryPolicy,
)
from kdht.wire._shared import Op

END = 60.0


def new_policy(call: Call = PUT, nodes: int = 2, max_tries: int = MAX_ATTEMPTS) -> RetryPolicy:
    known, budget = KnownNodes(nodes), HedgeBudget()
    return RetryPolicy(call, known, budget, random.Random(5348), max_tries=max_tries, gives_up=END)


def loses(policy: RetryPolicy, times: int = 1) -> None:
    """That many tries through node 0 get no answer."""
    for _ in range(times):
        policy.next_attempt()
        policy.wait(0.0, 0)
        policy.after_silence(Sent(0, 0, 0, at=0.0), answered=False)


# --- Routes


def test_each_try_takes_the_next_route_up_to_the_last_attempt():
    policy = new_policy()
    attempts = [policy.next_attempt() for _ in range(MAX_ATTEMPTS + 2)]
    assert attempts == [*range(MAX_ATTEMPTS + 1), MAX_ATTEMPTS]


def test_a_trace_stays_on_the_best_route():
    policy = new_policy(calls.trace("hello", 3))
    assert [policy.next_attempt() for _ in range(3)] == [0, 0, 0]


def test_attempts_beyond_the_replicas_repeat_the_first_two_routes():
    policy = new_policy()
    followed = []
    for _ in range(4):
        policy.next_attempt()
        followed.append((policy.pauses_beyond_replicas(policy.attempt - 1), policy.attempt, policy.laps))
    assert followed == [(False, 1, 0), (False, 0, 1), (False, 1, 1), (True, 0, 2)]


def test_waits_grow_by_laps_and_not_by_the_tries_lost_in_them():
    policy = new_policy()
    loses(policy, 3)
    policy.pauses_beyond_replicas(attempt=3)
    wait = policy.wait(10.0, 0) - 10.0
    assert 2 * START_RTO <= wait <= 2 * START_RTO * (1 + JITTER)


# --- When


def test_waits_double_after_each_loss_up_to_the_longest():
    policy = new_policy()
    for losses in range(7):
        least = min(START_RTO * 2**losses, MAX_RTO)
        assert least <= policy.wait(10.0, 0) - 10.0 <= least * (1 + JITTER)
        loses(policy)


def test_a_read_is_hedged_so_many_times_before_it_is_lost():
    policy = new_policy(GET)
    for _ in range(MAX_HEDGES):
        policy.next_attempt()
        assert (policy.wait(0.0, 0), policy.hedges_next) == (START_LATE, True)
        assert policy.take_hedge(0)
    policy.next_attempt()
    assert (policy.wait(0.0, 0), policy.hedges_next) == (START_RTO, False)


def test_a_hedge_is_paid_for_unless_the_node_is_dead():
    nodes, budget = KnownNodes(2), HedgeBudget()
    policy = RetryPolicy(GET, nodes, budget, random.Random(1), max_tries=8, gives_up=END)
    assert policy.take_hedge(0)
    assert budget.tokens == HEDGE_BURST - 1
    nodes.died(0, 0.0)
    assert policy.take_hedge(0)
    assert budget.tokens == HEDGE_BURST - 1
    budget.tokens = 0.5
    assert not policy.take_hedge(1)


def test_a_hedge_does_not_count_as_a_loss():
    policy = new_policy(GET)
    loses(policy)
    assert policy.wait_without_hedge(0.0, 0) == START_RTO


def test_pauses_are_short():
    policy = new_policy()
    loses(policy, 10)
    pause = policy.pause(50.0, 0) - 50.0
    assert MAX_PAUSE <= pause <= MAX_PAUSE * (1 + JITTER)


def test_with_few_tries_pauses_spread_them_over_all_the_time():
    policy = new_policy(max_tries=12)
    loses(policy, 10)
    assert policy.pause(0.0, 0) >= MAX_RTO
    assert policy.pause(END - 2.0, 0) - (END - 2.0) >= 1.0


def test_no_wait_exceeds_the_requests_time_out():
    policy = new_policy()
    assert policy.wait(END - 0.001, 0) == END
    assert policy.pause(END - 0.001, 0) == END
    assert policy.wait_for_the_others(END - 0.001, 0) == END


def test_the_last_try_waits_to_the_end():
    policy = new_policy(GET, max_tries=2)
    policy.next_attempt()
    assert not policy.is_used_up
    policy.next_attempt()
    assert (policy.is_used_up, policy.wait(0.0, 0), policy.hedges_next) == (True, END, False)
    assert policy.pause(1.0, 0) == END


def test_waiting_for_the_others_ends_hedging():
    policy = new_policy(GET)
    assert policy.wait_for_the_others(1.0, 0) == 1.0 + START_RTO
    assert policy.wait(1.0, 0) == 1.0 + START_RTO
    assert not policy.hedges_next


# --- Through which node


@pytest.mark.parametrize("answered", [False, True])
def test_a_silent_node_is_followed_by_the_next(answered):
    policy = new_policy(nodes=3)
    policy.next_attempt()
    assert policy.after_silence(Sent(1, 0, 0, at=0.0), answered=answered) == 2


def test_a_node_that_still_answers_is_kept_for_a_few_tries():
    nodes = KnownNodes(2)
    policy = RetryPolicy(PUT, nodes, HedgeBudget(), random.Random(1), max_tries=MAX_ATTEMPTS, gives_up=END)
    nodes.answered(0, Op.GET, 0.001, now=1.0)
    last = Sent(0, 0, 0, at=0.5)
    through = []
    for _ in range(MAX_TRIES_THROUGH_ONE + 1):
        policy.next_attempt()
        through.append(policy.after_silence(last, answered=False))
    assert through == [0] * MAX_TRIES_THROUGH_ONE + [1]


def test_bounces_are_followed_at_once_so_many_times():
    policy = new_policy()
    assert [policy.pauses_after_bounce() for _ in range(MAX_BOUNCES + 1)] == [False] * MAX_BOUNCES + [True]
