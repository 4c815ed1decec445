"""The search for an order: histories that have one, and histories that must not."""

import itertools
import random
from math import inf

import pytest

from histories.linear import ABSENT, Step, search


def read(start, end, value):
    return Step(start, end, value, None)


def write(start, end, value):
    return Step(start, end, None, value)


def swap(start, end, needs, sets):
    return Step(start, end, needs, sets)


def unknown(start, sets, needs=None):
    return Step(start, inf, needs, sets, optional=True)


ORDERED = {
    "nothing": [],
    "read what was written": [write(0, 1, 1), read(2, 3, 1)],
    "a read meanwhile sees the old value": [write(0, 1, 1), write(2, 5, 2), read(3, 4, 1)],
    "or the new one": [write(0, 1, 1), write(2, 5, 2), read(3, 4, 2)],
    "two writes at once in either order": [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 1)],
    "an unknown write takes effect late": [write(0, 1, 1), unknown(2, 2), read(3, 4, 1), read(5, 6, 2)],
    "or never": [write(0, 1, 1), unknown(2, 2), read(3, 4, 1)],
    "unknown writes upon each other": [unknown(0, 1), unknown(0, 2, needs=1), read(5, 6, 2)],
    "an unknown deletion": [write(0, 1, 1), unknown(2, ABSENT), read(3, 4, 1), read(5, 6, ABSENT)],
    "conditions that follow each other": [swap(0, 1, ABSENT, 1), swap(2, 3, 1, 2), read(4, 5, 2)],
    "made again": [write(0, 1, 1), write(2, 3, ABSENT), swap(4, 5, ABSENT, 2), read(6, 7, 2)],
}
DISORDERED = {
    "a value that nobody wrote": [read(0, 1, 9)],
    "a lost write": [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],
    "a read goes back": [write(0, 1, 1), write(2, 9, 2), read(3, 4, 2), read(5, 6, 1)],
    "two from one state": [write(0, 1, 1), swap(2, 5, 1, 2), swap(2, 5, 1, 3)],
    "a deleted value comes back": [write(0, 1, 1), write(2, 3, ABSENT), read(4, 5, 1)],
    "a value is gone that nobody deleted": [write(0, 1, 1), read(2, 3, ABSENT)],
    "an unknown write takes effect before its call": [write(0, 1, 1), read(2, 3, 2), unknown(4, 2)],
    "an unknown write takes effect twice": [
        unknown(0, 1),
        read(1, 2, 1),
        write(3, 4, 2),
        read(5, 6, 2),
        read(7, 8, 1),
    ],
    "an unknown deletion twice": [
        unknown(0, ABSENT),
        write(1, 2, 1),
        read(3, 4, ABSENT),
        write(5, 6, 2),
        read(7, 8, ABSENT),
    ],
    "a condition on what was overwritten": [write(0, 1, 1), write(2, 3, 2), swap(4, 5, 1, 3)],
    "made where it was": [write(0, 1, 1), swap(2, 3, ABSENT, 2)],
}


@pytest.mark.parametrize("name", ORDERED)
def test_linearizable_histories_have_an_order(name):
    assert search(ORDERED[name]).linearizable is True


@pytest.mark.parametrize("name", DISORDERED)
def test_other_histories_have_no_order(name):
    found = search(DISORDERED[name])
    assert found.linearizable is False
    assert found.stuck is not None


def slow(steps):
    """All orders of all choices of optional steps: the obvious way."""
    optional = [step for step in steps if step.optional]
    definite = [step for step in steps if not step.optional]
    return any(
        _holds(order)
        for size in range(len(optional) + 1)
        for chosen in itertools.combinations(optional, size)
        for order in itertools.permutations([*definite, *chosen])
    )


def _holds(order):
    state, latest = ABSENT, -inf
    for step in order:
        latest = max(latest, step.start)
        if latest >= step.end or step.needs not in (None, state):
            return False
        state = state if step.sets is None else step.sets
    return True


@pytest.mark.parametrize("seed", range(40))
def test_the_search_agrees_with_brute_force(seed):
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(25):
        steps = [_any_step(rng, number) for number in range(1, 7)]
        expected = slow(steps)
        assert search(steps).linearizable is expected, steps
        outcomes.add(expected)
    assert outcomes == {True, False}


def _any_step(rng, number):
    start = rng.randrange(12)
    end = start + 1 + rng.randrange(6)
    other = rng.choice([ABSENT, rng.randrange(1, 7)])
    kind = rng.choice(["read", "write", "swap", "delete", "unknown", "unknown swap", "unknown delete"])
    return {
        "read": read(start, end, other),
        "write": write(start, end, number),
        "swap": swap(start, end, other, number),
        "delete": write(start, end, ABSENT),
        "unknown": unknown(start, number),
        "unknown swap": unknown(start, number, needs=other),
        "unknown delete": unknown(start, ABSENT),
    }[kind]


def test_an_abandoned_search_is_reported():
    writes = [write(0, 100, value) for value in range(1, 30)]
    assert search([*writes, read(101, 102, 99)], budget=1000).linearizable is None


def simulated(operations, clients, seed):
    """A register that takes each operation at a moment between its call and its return; some are unheard of."""
    rng = random.Random(seed)
    events = []
    for client in range(clients):
        now = rng.random()
        for _ in range(operations // clients):
            start, at, end = now, now + rng.random(), now + 1 + rng.random()
            events.append((at, start, end, client))
            now = end + rng.random() / 10
    state, steps = ABSENT, []
    for number, (at, start, end, _) in enumerate(sorted(events), 1):
        chance = rng.random()
        if chance < 0.5:
            steps.append(read(start, end, state))
        elif chance < 0.9:
            steps.append(write(start, end, number))
            state = number
        elif chance < 0.95:
            steps.append(swap(start, end, state, number))
            state = number
        elif chance < 0.97:
            steps.append(unknown(start, number))
            state = number
        else:
            steps.append(unknown(start, number))
        assert at < end
    return steps


@pytest.mark.parametrize("clients", [4, 12])
def test_a_history_of_one_key_needs_few_search_states(clients):
    steps = simulated(20_000, clients, clients)
    assert search(steps, budget=20 * len(steps)).linearizable is True


def test_one_stale_read_among_many_operations_is_found():
    steps = simulated(5_000, 8, 3)
    stale = next(step for step in steps if step.sets is not None and not step.optional)
    late = max(step.start for step in steps) + 10
    assert search([*steps, read(late, late + 1, stale.sets)], budget=20 * len(steps)).linearizable is False
