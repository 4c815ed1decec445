"""Alarms and the token bucket."""

from collections import Counter
from random import Random

from kdht.faults import Faults
from kdht.node._timers import Timers, TokenBucket


def test_alarms_run_by_time_then_by_order_of_setting() -> None:
    timers = Timers(Faults(Counter()))
    rung: list[tuple[str, float]] = []
    for name, when in [("c", 3.0), ("a", 1.0), ("b", 1.0), ("d", 4.0)]:
        timers.at(when, lambda now, name=name: rung.append((name, now)))
    assert timers.next() == 1.0
    timers.run(0.5)
    assert rung == []
    timers.run(3.5)
    assert rung == [("a", 3.5), ("b", 3.5), ("c", 3.5)]
    assert timers.next() == 4.0


def test_a_cancelled_alarm_neither_runs_nor_wakes() -> None:
    timers = Timers(Faults(Counter()))
    rung: list[float] = []
    alarm = timers.at(1.0, rung.append)
    timers.at(2.0, rung.append)
    timers.cancel(alarm)
    assert timers.next() == 2.0
    timers.run(2.0)
    assert rung == [2.0]
    assert timers.next() is None


def test_an_alarm_may_cancel_another_that_is_due_too() -> None:
    timers = Timers(Faults(Counter()))
    rung: list[float] = []
    timers.at(1.0, lambda now: timers.cancel(second))
    second = timers.at(1.0, rung.append)
    timers.run(1.0)
    assert rung == []


def test_an_alarm_set_by_an_alarm_waits_for_the_next_run() -> None:
    timers = Timers(Faults(Counter()))
    rung: list[float] = []

    def again(now: float) -> None:
        rung.append(now)
        timers.at(now, again)

    timers.at(1.0, again)
    timers.run(1.0)
    assert rung == [1.0]
    assert timers.next() == 1.0
    timers.run(2.0)
    assert rung == [1.0, 2.0]


def test_a_token_bucket_keeps_its_rate_however_often_it_is_asked() -> None:
    rng, bucket = Random(1), TokenBucket(10.0)
    now = taken = 0.0
    while now < 100.0:
        taken += bucket.take(now)
        now += rng.uniform(0, 0.05)
    assert 10 * 100 - 10 <= taken <= 10 * 100 + 10


def test_after_its_wait_a_token_bucket_gives_a_token() -> None:
    bucket, now = TokenBucket(3.0), 1e9
    for _ in range(100):
        while bucket.take(now):
            pass
        now += bucket.wait() + 1e-6
        assert bucket.take(now)
