"""Durations by size, against counting them one by one."""

from random import Random
from threading import Thread

from kdht.histogram import BOUNDS, Histogram


def test_a_duration_counts_in_the_smallest_bucket_that_holds_it():
    rng = Random(1)
    durations = [rng.choice([rng.expovariate(100), rng.choice(BOUNDS)]) for _ in range(1000)]
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(seconds)
    bounds, counts, total = histogram.snapshot()
    cumulative = [sum(counts[: place + 1]) for place in range(len(bounds))]
    assert cumulative == [sum(seconds <= bound for seconds in durations) for bound in bounds]
    assert sum(counts) == len(durations)
    assert abs(total - sum(durations)) < 1e-9


def test_one_observation_may_stand_for_many():
    histogram = Histogram((1.0,))
    histogram.observe(0.5, 4)
    histogram.observe(9.0)
    assert histogram.snapshot() == ((1.0,), [4, 1], 11.0)


def test_threads_lose_nothing():
    histogram = Histogram()

    def observe() -> None:
        for _ in range(20_000):
            histogram.observe(0.001, 2)

    threads = [Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(histogram.snapshot().counts) == 160_000
