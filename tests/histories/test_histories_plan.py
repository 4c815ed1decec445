"""What goes wrong comes of the seed alone; rules and times of the treated network; clocks that differ."""

import itertools
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from histories.__main__ import command
from histories.clock import Clock, compiled
from histories.network import Treatment, Wire, ruleset
from histories.plan import KINDS, acts
from histories.relay import VNET_HDR_LEN, Relay

NODES = ("n1", "n2", "n3", "n4", "n5")


def first(seed, kinds=KINDS, count=200):
    return list(itertools.islice(acts(seed, kinds, NODES), count))


def test_one_seed_gives_one_plan():
    assert first(3) == first(3)
    assert first(3) != first(4)


def test_every_fault_names_existing_nodes():
    found = first(1, count=400)
    assert {act.kind for act in found} == set(KINDS)
    assert any(act.beneath for act in found)
    for act in found:
        assert set(act.nodes) <= set(NODES)
        assert act.rest > 0
        assert act.lasts >= 0


def test_a_plan_keeps_to_the_kinds_that_were_asked_for():
    found = first(1, kinds=("kill", "loss"))
    assert {act.kind for act in found} == {"kill", "loss"}
    assert {act.beneath.kind for act in found if act.beneath} == {"loss"}


def test_no_two_nodes_die_while_datagrams_are_lost_or_late():
    found = [act for seed in range(20) for act in first(seed) if act.kind == "kill-two"]
    assert {act.beneath.kind for act in found if act.beneath} == {"duplicate", "skew"}


def test_the_rules_drop_what_is_cut_lost_or_relayed():
    rules = ruleset(
        {"n1": Treatment(loss_permille=50), "n2": Treatment(delay_ms=5), "n3": Treatment()},
        {"n3": {"n1"}},
        {"n1": ["10.0.0.1", "fd00::1"], "n2": ["10.0.0.2"], "n3": ["10.0.0.3"]},
    )
    assert 'device "n1"' in rules
    assert "numgen random mod 1000 < 50 drop" in rules
    assert rules.count("meta l4proto udp drop") == 1
    assert "ip daddr 10.0.0.1 drop" in rules
    assert "ip6 daddr fd00::1 drop" in rules


# --- The relay -----------------------------------------------------------------------------


class Sent:
    """In place of a port's socket."""

    def __init__(self):
        self.frames = []

    def send(self, frame):
        self.frames.append(frame)


MACS = {"02:00:00:00:00:01": "n1", "02:00:00:00:00:02": "n2"}


def frame_to(mac, number=0):
    head = bytes.fromhex(mac.replace(":", "")) + bytes(6) + b"\x08\x00" + bytes(9) + b"\x11"
    return bytes(VNET_HDR_LEN) + head + bytes([number])


@pytest.fixture
def relay(monkeypatch):
    sockets = {"n1": Sent(), "n2": Sent()}
    made = Relay()
    monkeypatch.setattr(made, "_open", sockets.__getitem__)
    monkeypatch.setattr(made, "_listen", lambda *_: None)
    made.sent = sockets["n2"].frames
    return made


def treat(relay, cuts=None, **treatment):
    relay.set(Wire({"n1": Treatment(**treatment)}, cuts or {}, MACS, 7))


def take(relay, count=1):
    for number in range(count):
        relay.take("n1", frame_to("02:00:00:00:00:02", number), 0.0)


def test_a_delayed_datagram_is_sent_when_its_time_has_come(relay):
    treat(relay, delay_ms=20)
    take(relay)
    assert relay.send_due(0.01) == pytest.approx(0.01)
    assert not relay.sent
    assert relay.send_due(0.02) is None
    assert relay.sent == [frame_to("02:00:00:00:00:02")]


def test_jitter_lets_later_datagrams_overtake(relay):
    treat(relay, jitter_ms=50)
    take(relay, 30)
    relay.send_due(1.0)
    order = [frame[-1] for frame in relay.sent]
    assert sorted(order) == list(range(30))
    assert order != sorted(order)


def test_a_duplicate_comes_late_and_the_first_in_time(relay):
    treat(relay, duplicate_permille=1000, late_ms=500)
    take(relay, 10)
    relay.send_due(0.0)
    assert len(relay.sent) == 10
    relay.send_due(0.5)
    assert len(relay.sent) == 20


def test_a_cut_or_lost_datagram_is_not_sent(relay):
    treat(relay, {"n1": ["n2"]})
    take(relay, 5)
    treat(relay, loss_permille=1000)
    take(relay, 5)
    relay.send_due(1.0)
    assert not relay.sent


def test_a_passed_datagram_is_not_sent_twice(relay):
    treat(relay)
    relay.take("n1", frame_to("02:00:00:00:00:02")[:-2] + b"\x06\x00", 0.0)
    relay.take("n1", frame_to("ff:ff:ff:ff:ff:ff"), 0.0)
    relay.send_due(1.0)
    assert not relay.sent


# --- Clocks --------------------------------------------------------------------------------

TELL = "import time; print(time.time() - time.monotonic())"


def told():
    return float(
        subprocess.run([sys.executable, "-c", TELL], capture_output=True, check=True, text=True).stdout
    )


def test_a_process_has_the_time_of_day_that_it_was_given(tmp_path):
    clock = Clock(compiled(tmp_path), tmp_path / "clock")
    true = told()
    with clock.worn():
        assert abs(told() - true) < 1
        clock.set(-100.5)
        assert abs(told() - true + 100.5) < 1
    assert "LD_PRELOAD" not in os.environ
    assert abs(told() - true) < 1


# --- The program ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--loopback", "--nemesis", "loss"], "on loopback there is no loss"),
        (["--loopback", "--datapath", "ebpf"], "--loopback is for the socket datapath"),
        (["--nemesis", "rain"], "rain"),
        (["--replicas", "6", "--nodes", "5"], "--replicas"),
    ],
)
def test_an_unplayable_plan_is_reported(arguments, says):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert says in result.output
