"""The sensor in C, with sanitizers, against real daemons that ask for tokens: a node is stopped, a sensor is killed.

sensors --> 127.0.0.1 .. 127.0.0.4, four kdhtd with the socket datapath, no root
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import tokens
from daemons import run
from drivers import build_c
from paths import ROOT
from programs import Program

from kdht import Client
from kdht.errors import NotFound, Unconfirmed
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until

NODES = 4
EXAMPLE = ROOT / "examples/sensor"
GONE = 60.0
"""Seconds in which a reading is gone for certain."""


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_c("gcc", EXAMPLE / "sensor.c", tmp_path_factory.mktemp("sensor") / "sensor")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with Cluster(
        places_on_loopback(NODES), directory, datapath="socket", settings=tokens.settings()
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(
        [str(node.address) for node in cluster.nodes], timeout=20, token=tokens.token().text
    ) as client:
        yield client


def started(stack: ExitStack, cluster: Cluster, sensor: Path, name: str, file: Path) -> Program:
    nodes = ",".join(str(node.address) for node in cluster.nodes)
    token = tokens.token(holder=name).text
    return stack.enter_context(Program([sensor, nodes, name, file, "1"], KDHT_TOKEN=token))


def says(client: Client, key: str, value: bytes) -> None:
    """Wait until that is there."""

    def is_there() -> bool:
        try:
            return client.get(key, quorum=True) == value
        except NotFound:
            return False

    wait_until(is_there, f"{value!r} in {key}", timeout=GONE)


def members(client: Client) -> set[bytes]:
    return {member.payload for member in client.members("sensors", quorum=True)}


def has_no_reading(client: Client) -> bool:
    try:
        return not client.get_many(["sensors/attic", "sensors/cellar"])
    except Unconfirmed:
        # The sensor was killed within a write, so one replica may have a newer reading than the others: docs/guarantees.md.
        return False


def test_sensors_live_and_die(cluster: Cluster, sensor: Path, client: Client, tmp_path: Path) -> None:
    attic, cellar = tmp_path / "attic", tmp_path / "cellar"
    attic.write_text("21500\n")
    cellar.write_text("9000\n")
    with ExitStack() as stack:
        first = started(stack, cluster, sensor, "attic", attic)
        second = started(stack, cluster, sensor, "cellar", cellar)
        says(client, "sensors/attic", b"21500")
        says(client, "sensors/cellar", b"9000")
        says(client, "sensors/highest", b"21500 attic")
        wait_until(lambda: members(client) == {b"attic", b"cellar"}, "both in the set", timeout=GONE)
        # Its own reading falls, the highest one stays.
        attic.write_text("20000\n")
        says(client, "sensors/attic", b"20000")
        assert client.get("sensors/highest", quorum=True) == b"21500 attic"
        stopped = cluster.nodes[0]._running()
        stopped.send_signal(signal.SIGSTOP)
        try:
            cellar.write_text("30000\n")
            says(client, "sensors/cellar", b"30000")
            says(client, "sensors/highest", b"30000 cellar")
        finally:
            stopped.send_signal(signal.SIGCONT)
        assert first.kill(signal.SIGTERM) == 0
        wait_until(lambda: members(client) == {b"cellar"}, "the other one alone in the set", timeout=GONE)
        second.kill()
        wait_until(lambda: not members(client), "the end of its membership", timeout=GONE)
        wait_until(lambda: has_no_reading(client), "no reading", timeout=GONE)
        assert client.get("sensors/highest", quorum=True) == b"30000 cellar"


def test_a_sensor_without_a_number_says_so_and_goes_on(
    cluster: Cluster, sensor: Path, tmp_path: Path
) -> None:
    file = tmp_path / "shed"
    with ExitStack() as stack:
        program = started(stack, cluster, sensor, "shed", file)
        file.write_text("none\n")
        file.write_text("17\n")
        program.wait_for(r"17 version=\d+")
        assert program.kill(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("127.0.0.1", "a", "b", "0"),
        ("127.0.0.1", "a" * 65, "b"),
        ("", "a", "b"),
        ("127.0.0.1:no", "a", "b"),
    ],
)
def test_wrong_arguments_end_with_advice(sensor: Path, arguments: tuple[str, ...]) -> None:
    done = run([sensor, *arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr or "check the nodes' names" in done.stderr
