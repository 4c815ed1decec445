"""The checker with a neighbour of the test's own: what it asks, and what it does with the fast path."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from chain import IDS, configure

from kdht._routing import Core
from kdht.daemon import path_checker
from kdht.daemon.path_checker import PathChecker
from kdht.datapath.departures import Departed
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact, Message, parse
from kdht.wire._shared import Flag, Op

OWN = Address.of("127.0.0.1", 5348)
ABSENT = Address.of("2001:db8::1", 5348)
"""This host does not have it (yet)."""


class FakePath:
    """A fast path that notes where it is."""

    name = "fake"

    def __init__(self) -> None:
        self.marker = 0
        self.seen = 0
        self.is_passed_by = self.is_suspected = False
        self.sent = self.missing = self.changes = 0

    def taken(self) -> int:
        return self.seen

    def departed(self) -> Departed:
        return Departed(self.sent, self.sent - self.missing)

    def host_changes(self) -> int:
        return self.changes

    def suspect(self, is_so: bool) -> None:
        self.is_suspected = is_so

    def passed_by(self, is_so: bool) -> None:
        self.is_passed_by = is_so

    def step_aside(self, marker: int) -> None:
        self.marker = marker

    def step_back(self) -> None:
        self.marker = 0


class Neighbour:
    """Answers a REFLECT, and forges the TRACE's answer unless the path `loses` it."""

    def __init__(self, path: FakePath) -> None:
        self.loses = self.is_silent = False
        self.takes_notice = True
        self._path = path
        self._here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._here.bind(("127.0.0.1", 0))
        self.contact = Contact(IDS[1], *Address.of(*self._here.getsockname()))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            data, source = self._here.recvfrom(2048)
            if not data:
                return
            asked = parse(data)
            assert (asked.op, asked.key, asked.client) == (Op.REFLECT, IDS[1], OWN)
            ops = [] if self.is_silent else [Op.REFLECT] if self.loses else [Op.REFLECT, Op.TRACE]
            self._path.seen += self.takes_notice
            for op in ops:
                answer = Message(op=op, flags=Flag.REPLY, key=IDS[1], request_id=asked.request_id)
                self._here.sendto(answer.pack(), source)

    def close(self) -> None:
        self._here.sendto(b"", self._here.getsockname())
        self._thread.join()
        self._here.close()


@pytest.fixture
def path() -> FakePath:
    return FakePath()


@pytest.fixture
def neighbour(path: FakePath) -> Iterator[Neighbour]:
    neighbour = Neighbour(path)
    yield neighbour
    neighbour.close()


@pytest.fixture
def checker(path: FakePath, neighbour: Neighbour) -> Iterator[PathChecker]:
    core = Core()
    configure(core, IDS[0], OWN)
    core.set_bucket(0, [neighbour.contact])
    checker = PathChecker(path, core, IDS[0], [OWN])
    checker.start()
    checker.begin()
    yield checker
    checker.stop()


def test_losses_take_the_path_aside_until_checks_succeed(path, neighbour, checker):
    wait_until(lambda: checker.status()["good"], "a check")
    neighbour.loses = True
    wait_until(lambda: path.marker == checker.marker, "the path to step aside")
    neighbour.loses = False
    wait_until(lambda: path.marker == 0, "the path to come back")


def test_a_silent_neighbour_is_no_loss(path, neighbour, checker):
    neighbour.is_silent = True
    wait_until(lambda: checker.status()["unknown"] > 3, "some tries")
    assert path.marker == 0


def test_missing_packets_take_the_path_aside_though_checks_succeed(path, neighbour, checker):
    wait_until(lambda: checker.status()["good"], "a check")
    losing = True

    def lose():
        if losing and not path.marker:
            path.sent, path.missing = path.sent + 20, path.missing + 20
        return path.marker == checker.marker

    wait_until(lose, "the path to step aside")
    assert path.is_suspected
    losing = False
    path.changes += 1
    wait_until(lambda: path.marker == 0, "the path to be tried again")
    wait_until(lambda: not path.is_suspected, "the end of doubt")
    assert checker.status()["missing"] >= 20
    assert not checker.status()["lost"]


def test_a_path_that_sees_nothing_of_the_checks_is_passed_by(path, neighbour, checker):
    neighbour.takes_notice = False
    wait_until(lambda: path.is_passed_by, "it to be noticed")
    neighbour.takes_notice = True
    wait_until(lambda: not path.is_passed_by, "its return")
    assert path.marker == 0


def test_an_absent_address_costs_no_descriptors_and_not_the_checks_of_the_other(path, neighbour, monkeypatch):
    monkeypatch.setattr(path_checker, "NOBODY_S", 0.01)
    core = Core()
    configure(core, IDS[0], OWN, ABSENT)
    core.set_bucket(0, [neighbour.contact, Contact(IDS[2], *Address.of("2001:db8::2", 5348))])
    checker = PathChecker(path, core, IDS[0], [ABSENT, OWN])
    checker.start()
    checker.begin()
    wait_until(lambda: checker.status()["good"], "a check over the other IP version")
    assert "Cannot assign requested address" in checker.trouble
    before = len(os.listdir("/proc/self/fd"))
    good = checker.status()["good"]
    wait_until(lambda: checker.status()["good"] > good + 3, "some more")
    assert len(os.listdir("/proc/self/fd")) <= before
    checker.stop()


def test_no_check_is_made_before_the_path_is_in_place(path, neighbour):
    core = Core()
    configure(core, IDS[0], OWN)
    core.set_bucket(0, [neighbour.contact])
    checker = PathChecker(path, core, IDS[0], [OWN])
    checker.start()
    checker.stop()
    assert path.seen == 0
    assert not any(checker.status().values())
