"""The small parts of a coordinator that are in Cython do what they do in plain Python (tests/helpers/plain_coordinator.py)."""

from collections.abc import Callable
from random import Random
from typing import Any

import plain_coordinator as plain
import pytest

from kdht.histogram import BOUNDS, Histogram
from kdht.node._roundtrip import RoundTrip
from kdht.node.replicas._clock import HybridClock, SteadyClock
from kdht.node.replicas._recent import Recent
from kdht.storage import StoredRecord
from kdht.wire._shared import TRY_BITS, Status
from kdht.wire.certified import CERTIFIED

SEEDS = range(20)
NOW = 1_700_000_000.0


def steps(draw: Random, count: int = 400) -> list[float]:
    """Times of a clock that stands still, is set back and leaps."""
    now, found = NOW, []
    for _ in range(count):
        now += draw.choice((0.0, 0.0, 1e-6, 0.003, 0.4, 0.99, 1.0, 1.01, 30.0, -0.5, -1.0, -70.0))
        found.append(now)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hybrid_clock(seed):
    draw, clock, oracle = Random(seed), HybridClock(), plain.HybridClock()
    for now in steps(draw):
        seen = int((now + draw.choice((-5, 0, 5, 59, 60, 61, 1e6))) * 1e6) + draw.randint(-2, 2)
        seen = draw.choice((seen, seen, CERTIFIED, 2**64 - 1))
        if draw.random() < 0.4:
            clock.seen(seen, now)
            oracle.seen(seen, now)
        else:
            above = draw.choice((0, 0, seen))
            assert clock.next(now, above) == oracle.next(now, above)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_steady_clock(seed):
    clock, oracle = SteadyClock(), plain.SteadyClock()
    for now in steps(Random(seed)):
        assert clock.at(now) == oracle.at(now)


@pytest.mark.parametrize("seed", SEEDS)
def test_round_trips(seed):
    draw, trip, oracle = Random(seed), RoundTrip(), plain.RoundTrip()
    for _ in range(200):
        assert (trip.rtt, trip.variation) == (oracle.rtt, oracle.variation)
        bounds = draw.random(), draw.random() / 10, draw.random()
        assert trip.timeout(*bounds) == oracle.timeout(*bounds)
        rtt = draw.expovariate(50)
        trip.sample(rtt)
        oracle.sample(rtt)


@pytest.mark.parametrize("seed", SEEDS)
def test_durations(seed):
    draw, histogram, oracle = Random(seed), Histogram(), plain.Histogram()
    for _ in range(500):
        seconds = draw.choice((draw.expovariate(20), draw.choice(BOUNDS), 0.0, 100.0))
        times = draw.choice((1, 1, 3))
        histogram.observe(seconds, times)
        oracle.observe(seconds, times)
    assert histogram.snapshot() == (BOUNDS, oracle.counts, oracle.total)


def asked_of(draw: Random, now: float) -> Callable[[Any], Any]:
    """Something to ask of either."""
    key, version, write = bytes([draw.randrange(3)]) * 20, draw.randint(1, 4), draw.randint(1, 3)
    request = write << TRY_BITS | draw.randrange(2)
    record = StoredRecord(version, 0, 0, draw.choice((b"one", b"two")))
    flag = draw.random() < 0.5
    return draw.choice((
        lambda each: each.claim(key, version, request, now, conditional=flag),
        lambda each: each.again(key, version, request, now),
        lambda each: each.merged(key, version, request, now),
        lambda each: each.may_stand(key, version, request, now),
        lambda each: each.confirm(key, record, now, existed=flag),
        lambda each: each.confirmed(key, record, write),
        lambda each: each.deletion(key, version, now, existed=flag),
        lambda each: each.refuse(key, write, Status.CONFLICT, version, now),
        lambda each: each.refused(key, write),
    ))  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_recent_writes(seed):
    draw, recent, oracle = Random(seed), Recent(), plain.Recent()
    for now in steps(draw):
        ask = asked_of(draw, now)
        assert ask(recent) == ask(oracle)


def test_recent_writes_are_bounded():
    recent, oracle = Recent(), plain.Recent()
    for number in range(2 * plain.MOST + 10):
        for each in (recent, oracle):
            each.refuse(bytes(20), number, Status.BUSY, number, NOW)
    for number in (0, 5, plain.MOST, 2 * plain.MOST, 2 * plain.MOST + 9):
        assert recent.refused(bytes(20), number) == oracle.refused(bytes(20), number)
    assert recent.refused(bytes(20), 0) is None
