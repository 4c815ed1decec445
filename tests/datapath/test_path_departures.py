"""When a fast path counts as losing a part of its packets, and when it is tried again."""

import pytest

from kdht.datapath.departures import (
    HASTE,
    HOLD_S,
    LEAST,
    MOST_HOLD_S,
    RELAPSE_S,
    SHARE,
    WINDOW_S,
    Departed,
    Departures,
    State,
)


class Path:
    """Sends packets in windows; some are lost."""

    def __init__(self) -> None:
        self.departures = Departures()
        self.now = 0.0
        self.changes = 0
        self.sent = self.left = 0
        self.look(0)

    def look(self, sent: int, lost: int = 0, after_s: float = WINDOW_S) -> State:
        self.now += after_s
        self.sent += sent
        self.left += sent - lost
        self.departures.add(Departed(self.sent, self.left), self.changes, self.now)
        return self.departures.state

    def until_tried(self, step_s: float = 0.125) -> float:
        begun = self.now
        while self.look(0, after_s=step_s) is State.ASIDE:
            pass
        self.look(0)
        return self.now - begun - WINDOW_S


@pytest.fixture
def path() -> Path:
    return Path()


def test_two_windows_with_missing_packets_take_it_aside(path):
    assert path.look(40, 10) is State.SUSPECTED
    assert path.look(40, 10) is State.ASIDE
    assert path.departures.missing == 20


def test_one_window_does_not(path):
    assert path.look(40, 10) is State.SUSPECTED
    assert path.look(40) is State.WHOLE
    assert path.look(40, 10) is State.SUSPECTED


@pytest.mark.parametrize(
    ("sent", "lost", "counts"),
    [
        (LEAST, LEAST, True),
        (LEAST, LEAST - 1, False),
        (SHARE * LEAST, LEAST, True),
        (SHARE * LEAST + 1, LEAST, False),
        (10, -10, False),
    ],
)
def test_few_packets_are_on_their_way_or_forged(path, sent, lost, counts):
    assert path.look(sent, lost) is (State.SUSPECTED if counts else State.WHOLE)


def test_a_short_window_goes_on(path):
    assert path.look(40, 10, after_s=WINDOW_S / 2) is State.WHOLE
    assert path.look(0, after_s=WINDOW_S / 2) is State.SUSPECTED


def test_a_table_that_was_loaded_again_counts_from_zero(path):
    path.look(100)
    path.left = 0
    assert path.look(0) is State.WHOLE
    assert path.look(40) is State.WHOLE


def test_it_is_tried_again_and_loses_again(path):
    path.look(40, 10)
    path.look(40, 10)
    assert path.until_tried() == HOLD_S
    assert path.departures.state is State.TRIED
    assert path.look(40, 10) is State.ASIDE
    waits = []
    for _ in range(5):
        waits.append(path.until_tried())
        path.look(40, 10)
    assert waits == [8, 16, 32, MOST_HOLD_S, MOST_HOLD_S]


def test_a_relapse_after_a_while_begins_with_the_shortest_wait(path):
    path.look(40, 10)
    path.look(40, 10)
    path.until_tried()
    assert path.look(40) is State.WHOLE
    path.look(40, after_s=RELAPSE_S)
    path.look(40, 10)
    path.look(40, 10)
    assert path.until_tried() == HOLD_S


def test_a_change_of_the_host_shortens_the_wait(path):
    path.look(40, 10)
    path.look(40, 10)
    path.changes += 1  # the switch's own
    path.look(0)
    for _ in range(int(HOLD_S / HASTE / WINDOW_S)):
        assert path.look(0) is State.ASIDE
    path.changes += 1
    assert path.look(0) is State.TRIED


def test_checks_that_fail_decide_alone(path):
    path.look(40, 10)
    path.departures.forget()
    assert path.look(40, 40) is State.WHOLE
    assert path.look(40) is State.WHOLE
