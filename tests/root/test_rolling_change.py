"""One node after the other is started anew, while clients write, read and announce.

$KDHT_BEFORE names the Python of another build's virtual environment: then the nodes change from that build to this one, and back.
Nothing is released yet, so a plain run has this build alone.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdht import Client
from kdht.lab.cluster import DAEMON, Cluster, places_on_loopback

pytestmark = [pytest.mark.root, pytest.mark.slow]

OTHER = "tests.helpers.daemon_before"
CHANGES = (
    {"to_this": (OTHER, DAEMON), "back": (DAEMON, OTHER)}
    if "KDHT_BEFORE" in os.environ
    else {"this": (DAEMON, DAEMON)}
)
NODES = 4
ANNOUNCERS = 20
PATIENT = 30.0
"""Seconds: the machine may have other work."""


class Traffic:
    """A counter, raised by condition; a register, read by quorum; and a set whose members stay."""

    def __init__(self, entries: list[str]) -> None:
        self.entries = entries
        self.rounds = 0
        self.wrong: list[object] = []
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            with Client(self.entries, timeout=PATIENT) as client:
                expected = {b"%d" % number for number in range(ANNOUNCERS)}
                while not self._ended.is_set():
                    self._round(client, expected)
                    self.rounds += 1
        except Exception as error:
            self.wrong.append(error)

    def _round(self, client: Client, expected: set[bytes]) -> None:
        value = b"%d" % self.rounds
        client.put("register", value)
        found = client.get("register", quorum=True)
        if found != value:
            self.wrong.append((found, value))
        members = {member.payload for member in client.members("services", quorum=True)}
        if members != expected:
            self.wrong.append(expected ^ members)
        passing = b"passing %d" % self.rounds
        client.announce_once("others", passing, 60, soft=self.rounds % 2 == 0)
        if passing not in {member.payload for member in client.members("others", quorum=True)}:
            self.wrong.append(passing)
        client.withdraw("others", passing)

    def end(self) -> None:
        self._ended.set()


@contextmanager
def traffic(entries: list[str]) -> Iterator[Traffic]:
    under_way = Traffic(entries)
    thread = threading.Thread(target=under_way.run)
    thread.start()
    try:
        yield under_way
    finally:
        under_way.end()
        thread.join()


@pytest.mark.parametrize(("first", "then"), CHANGES.values(), ids=CHANGES)
def test_values_and_sets_outlive_a_rolling_change(tmp_path: Path, first: str, then: str) -> None:
    with Cluster(places_on_loopback(NODES), tmp_path, datapath="socket", program=first) as cluster:
        entries = [str(node.address) for node in cluster.nodes]
        with Client(entries, timeout=PATIENT) as client:
            for number in range(ANNOUNCERS):
                client.announce_once("services", b"%d" % number, 600, soft=number % 2 == 0)
        with traffic(entries) as under_way:
            for node in cluster.nodes:
                before = under_way.rounds
                assert node.stop() == 0
                node.program = then
                node.start()
                cluster.wait_ready()
                deadline = time.monotonic() + PATIENT
                while under_way.rounds < before + 20 and not under_way.wrong and time.monotonic() < deadline:
                    time.sleep(0.1)
        assert under_way.wrong == []
        assert under_way.rounds >= 20 * NODES
