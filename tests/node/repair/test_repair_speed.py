"""How fast records move: the window of what is under way, what is left, and a cluster whose disks are slow."""

import pytest
from repair_cluster import RepairCluster

from kdht.node.repair.progress import Progress
from kdht.node.repair.ranges import Range
from kdht.node.repair.window import FIRST, LEAST, MOST, Window

WHOLE = Range(0, 0)
HALVES = WHOLE.split(1)


def answered(window: Window, count: int, rtt: float, now: float) -> float:
    for _ in range(count):
        window.answered(rtt, now)
        now += rtt / window.size
    return now


def test_a_window_grows_while_answers_come_promptly() -> None:
    window = Window()
    answered(window, 200, 0.03, 0.0)
    assert window.size > FIRST + 150
    answered(window, 10_000, 0.03, 10.0)
    assert window.size == MOST


def test_a_loss_halves_a_window_once_a_round_trip() -> None:
    window = Window()
    now = answered(window, 100, 0.03, 0.0)
    before = window.size
    for _ in range(10):
        window.lost(0.03, now)
    assert window.size == before / 2
    window.lost(0.03, now + 0.04)
    assert window.size == before / 4


def test_after_a_loss_a_window_grows_by_one_a_round_trip() -> None:
    window = Window()
    now = answered(window, 100, 0.03, 0.0)
    window.lost(0.03, now)
    before = window.size
    answered(window, int(before), 0.03, now + 1)
    assert before + 0.9 < window.size < before + 1.1


def test_slow_answers_shrink_the_window_before_losses() -> None:
    window = Window()
    now = answered(window, 200, 0.01, 0.0)
    before = window.size
    answered(window, 5, 0.2, now)
    assert window.size < before * 0.8


def test_a_window_never_closes() -> None:
    window = Window()
    for second in range(100):
        window.lost(0.1, float(second))
    assert window.size == LEAST


def test_a_slower_disk_becomes_the_baseline() -> None:
    window = Window()
    now = answered(window, 100, 0.01, 0.0)
    for _ in range(400):
        window.answered(0.2, now)
        now += 0.1
    low = window.size
    answered(window, 200, 0.2, now)
    assert window.size > low


def test_the_remaining_time_follows_the_measured_rate() -> None:
    progress = Progress()
    assert (progress.missing, progress.seconds_left(0.0)) == (0, 0.0)
    progress.heard(HALVES[0], 0, 600, 0.0)
    progress.heard(HALVES[1], 0, 400, 0.0)
    assert (progress.missing, progress.seconds_left(0.0)) == (1000, None)
    progress.heard(HALVES[0], 400, 600, 2.0)
    assert progress.missing == 600
    assert progress.seconds_left(2.0) == 3.0
    progress.only([HALVES[0]])
    assert progress.missing == 200


@pytest.mark.slow
def test_records_move_faster_than_a_small_fixed_window_allows() -> None:
    """A round trip of 60 ms, the disk's part included: 32 under way are 500 records a second."""
    cluster = RepairCluster(1)
    cluster.network.delay = 0.030, 0.031
    cluster.grow(1)
    cluster.run(20)
    keys = cluster.load(6000)
    newcomer = cluster.add(2)
    assert cluster.run_until(newcomer.keys, 20)
    begun = cluster.network.now
    assert cluster.run_until(lambda: len(newcomer.keys()) == len(keys), 60)
    assert cluster.network.now - begun < 6
    assert cluster.run_until(lambda: newcomer.repair.caught_up, 10)
    assert newcomer.repair.status()["missing"] == 0
