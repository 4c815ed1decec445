"""The process of the faces: kdhtd starts it, watches it, starts it again and ends it. Each with real processes."""

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import KDHTCTL, DevNode, free_port, run
from pages import ask
from paths import ROOT

from kdht.config.faces import FacesJob
from kdht.config.faces_schema import TrackerSection
from kdht.config.values import FaceEndpoint
from kdht.faces.rates import Rates
from kdht.lab.wait import wait_until
from kdht.program.answers import FaceState
from kdht.times import SteadyTime
from kdht.wire import Address

HOST = "127.61.1.1"
KDHT_FACES = [sys.executable, "-m", "kdht.faces.main"]


def configured(home: Path, tables: str = "") -> tuple[Path, int, int]:
    """A configuration with a tracker; the ports of tracker and metrics."""
    home.mkdir(exist_ok=True)
    node, tracker, metrics = (free_port(HOST) for _ in range(3))
    path = home / "kdhtd.toml"
    path.write_text(
        f"""
        [node]
        listen = ["{HOST}:{node}"]
        data_dir = "{home}/data"
        [datapath]
        kind = "socket"
        [control]
        socket = "{home}/control.sock"
        [metrics]
        listen = "{HOST}:{metrics}"
        [[key]]
        secret = "a secret of the tests of faces"
        [tracker]
        listen = ["{HOST}:{tracker}"]
        {tables}
        """
    )
    path.chmod(0o600)
    return path, tracker, metrics


def faces(node: DevNode) -> dict[str, FaceState]:
    return {face["name"]: FaceState(**face) for face in node.call("status")["faces"]}


def pid_of(node: DevNode) -> int:
    found = faces(node)["tracker"].pid
    assert found is not None
    return found


def connect(port: int, host: str = HOST) -> bytes:
    """The answer to a BEP 15 connect, empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((host, port))
        try:
            sock.send(struct.pack(">QII", 0x41727101980, 0, 7))
            return sock.recv(100)
        except OSError:
            return b""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.fixture
def node(tmp_path: Path):
    path, tracker, metrics = configured(tmp_path)
    node = DevNode(tmp_path, f"{HOST} with a tracker", config=path)
    node.tracker, node.metrics, node.path = tracker, metrics, path
    try:
        node.wait_ready()
        wait_until(lambda: faces(node)["tracker"].up, "the tracker")
        yield node
    finally:
        node.close()


def test_a_killed_process_is_started_again_and_everything_says_so(node: DevNode) -> None:
    assert connect(node.tracker)[4:8] == struct.pack(">I", 7)
    first = pid_of(node)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: (now := faces(node)["tracker"]).up and now.pid != first, "another process")
    assert connect(node.tracker)
    wait_until(lambda: faces(node)["tracker"].counters.get("connect"), "the connect in the counters")
    assert "tracker serves\n" in ask(f"http://{HOST}:{node.metrics}/readyz").body
    measured = ask(f"http://{HOST}:{node.metrics}/metrics").body
    assert 'kdht_face_up{face="tracker"} 1.0' in measured
    assert 'kdht_face_starts_total{face="tracker"} 2.0' in measured
    assert 'kdht_face_events_total{event="connect",face="tracker"}' in measured
    said = run([*KDHTCTL, "status", "--socket", node.control]).stdout
    assert f"tracker face: up, {HOST}:{node.tracker}" in said


def test_it_ends_with_the_daemon(node: DevNode) -> None:
    child = pid_of(node)
    assert node.end()[0] == 0
    assert not is_alive(child)


def test_it_ends_with_a_killed_daemon(node: DevNode) -> None:
    child = pid_of(node)
    node.process.kill()
    node.process.wait()
    wait_until(lambda: not is_alive(child), "the end of the faces")


def test_a_hung_one_is_killed_at_the_daemons_end(node: DevNode) -> None:
    child = pid_of(node)
    os.kill(child, signal.SIGSTOP)
    assert node.end()[0] == 0
    assert not is_alive(child)


def test_a_port_in_use_does_not_stop_the_node(tmp_path: Path) -> None:
    path, tracker, metrics = configured(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, tracker))
        node = DevNode(tmp_path, f"{HOST} with a taken port", config=path)
        try:
            node.wait_ready()
            wait_until(lambda: "in use" in faces(node)["tracker"].why, "the reason")
            ready = ask(f"http://{HOST}:{metrics}/readyz")
            assert (ready.status, "tracker does not serve: tracker.listen has" in ready.body) == (200, True)
            doctor = run([*KDHTCTL, "doctor", "--socket", node.control, "--config", path])
            assert "tracker does not serve" in doctor.stdout
            sock.close()
            wait_until(lambda: faces(node)["tracker"].up, "the tracker, once its port is free")
        finally:
            node.close()


def test_a_reload_changes_the_faces(node: DevNode) -> None:
    other = free_port(HOST)
    text = node.path.read_text()
    node.path.write_text(text.replace(f"{HOST}:{node.tracker}", f"{HOST}:{other}"))
    assert node.call("reload")["waiting"] == []
    wait_until(lambda: connect(other), "the tracker at its new port")
    assert not connect(node.tracker)
    before = pid_of(node)
    node.path.write_text(
        text.replace("[tracker]", "").replace("listen = [", "#", 2).replace("#", "listen = [", 1)
    )
    node.call("reload")
    wait_until(lambda: not is_alive(before) and not faces(node), "no faces")


def test_a_node_without_faces_has_no_process(tmp_path: Path) -> None:
    node = DevNode(tmp_path / "n", f"{HOST}:{free_port(HOST)}")
    try:
        node.wait_ready()
        assert faces(node) == {}
        threads = Path(f"/proc/{node.process.pid}/task")
        assert "".join((each / "children").read_text() for each in threads.iterdir()) == ""
    finally:
        node.close()


def test_it_runs_alone(tmp_path: Path) -> None:
    path, tracker, _ = configured(tmp_path)
    alone = subprocess.Popen([*KDHT_FACES, "--config", path], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        wait_until(lambda: connect(tracker), "the tracker")
        alone.terminate()
        assert alone.wait(20) == 0
    finally:
        alone.kill()
        alone.communicate()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("[tracker]", "[web]"), "kdhtd.toml: web.listen is"),
        (("listen = [", "#"), "no face is on: set dns.listen"),
    ],
)
def test_alone_it_refuses_in_one_line(tmp_path: Path, change: tuple[str, str], line: str) -> None:
    path, _, _ = configured(tmp_path)
    head, table, tail = path.read_text().partition("[tracker]")
    path.write_text(head + (table + tail).replace(*change))
    done = run([*KDHT_FACES, "--config", path])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("kdht-faces: ")
    assert line in done.stderr


def test_alone_it_ends_if_it_cannot_listen(tmp_path: Path) -> None:
    path, tracker, _ = configured(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, tracker))
        done = run([*KDHT_FACES, "--config", path])
    assert done.returncode == 2
    assert f"tracker.listen has {HOST}:{tracker}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_survives_its_way() -> None:
    tracker = TrackerSection(listen=[FaceEndpoint("[::1]:6969")])
    job = FacesJob(nodes=["127.0.0.1:1"], cookie_keys=[b"\0" * 16], tracker=tracker)
    again = FacesJob.parse(job.pack())
    assert again == job
    assert type(again.tracker.listen[0]) is FaceEndpoint
    assert list(again.wanted) == ["tracker"]


def test_rates_are_by_address_and_by_network_of_ipv6() -> None:
    rates = Rates(2, max_clients=2)
    one, two = Address.of("10.0.0.1", 1).ip, Address.of("fd00::1", 1).ip
    neighbour = Address.of("fd00::2", 1).ip
    now = SteadyTime(100.0)
    assert [rates.allows(one, now) for _ in range(3)] == [True, True, False]
    assert [rates.allows(ip, now) for ip in (two, neighbour, two)] == [True, True, False]
    assert rates.allows(one, SteadyTime(100.5))
    assert not rates.allows(one, SteadyTime(100.5))
    # A third client takes the place of the one that was silent longest.
    assert rates.allows(Address.of("10.0.0.3", 1).ip, SteadyTime(100.6))
    assert rates.allows(two, SteadyTime(100.6))
    assert all(Rates(0).allows(one, now) for _ in range(1000))
