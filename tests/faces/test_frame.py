"""The process of the faces: kdhtd starts it, watches it, starts it again and ends it. Each with real processes."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from daemons import KDHTCTL, KDHTD, DevNode, free_port, run
from pages import ask
from paths import ROOT

from kdht.config.faces import FacesJob, SenderLists
from kdht.config.faces_schema import TrackerSection
from kdht.config.values import FaceEndpoint
from kdht.datapath.senders import Senders
from kdht.faces.rates import Rates
from kdht.lab.wait import wait_until
from kdht.program.node_status import FaceState
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


class TrackerNode(DevNode):
    """A daemon with a tracker."""

    def __init__(self, home: Path) -> None:
        self.path, self.tracker, self.metrics = configured(home)
        super().__init__(home, f"{HOST} with a tracker", config=self.path)

    def wait_serving(self) -> "TrackerNode":
        self.wait_ready()
        wait_until(lambda: faces(self)["tracker"].up, "the tracker")
        return self


@contextmanager
def running(home: Path) -> Iterator[TrackerNode]:
    node = TrackerNode(home)
    try:
        yield node.wait_serving()
    finally:
        node.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackerNode]:
    """One for the tests that leave it with a tracker that serves."""
    with running(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[TrackerNode]:
    with running(tmp_path) as node:
        yield node


def test_a_killed_process_is_started_again_and_everything_says_so(node: TrackerNode) -> None:
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


def test_it_ends_with_the_daemon_killed_or_not(own_node: TrackerNode) -> None:
    child = pid_of(own_node)
    own_node.process.kill()
    own_node.process.communicate()
    wait_until(lambda: not is_alive(child), "the end of the faces")
    own_node.start()
    child = pid_of(own_node.wait_serving())
    assert own_node.end()[0] == 0
    assert not is_alive(child)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others have no capabilities")
def test_it_keeps_no_rights_of_root(node: TrackerNode) -> None:
    # The bounding set is the daemon's, who has no right to change it any more.
    for task in Path(f"/proc/{pid_of(node)}/task").iterdir():
        fields = dict(
            line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line
        )
        assert {fields[name] for name in ("CapEff", "CapPrm")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"


def test_a_hung_one_is_killed_at_the_daemons_end(own_node: TrackerNode) -> None:
    child = pid_of(own_node)
    os.kill(child, signal.SIGSTOP)
    assert own_node.end()[0] == 0
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


def test_a_token_that_is_missing_stops_one_face_alone(tmp_path: Path) -> None:
    path, _, _ = configured(tmp_path, f'token_file = "{tmp_path}/token"')
    http = free_port(HOST)
    path.write_text(f'{path.read_text()}\n[http]\nlisten = ["{HOST}:{http}"]\n')
    node = DevNode(tmp_path, f"{HOST} with a missing token", config=path)
    try:
        node.wait_ready()
        wait_until(lambda: faces(node)["http"].up, "the other face")
        assert faces(node)["tracker"].why.startswith(f"tracker.token_file is {tmp_path}/token: No such file")
        assert faces(node)["http"].starts == 1
    finally:
        node.close()


def test_a_reload_changes_whom_they_serve(node: TrackerNode) -> None:
    text = node.path.read_text()
    assert connect(node.tracker)
    try:
        node.path.write_text(f'{text}\n[access]\nnot_from = ["127.0.0.0/8"]\n')
        assert node.call("reload")["waiting"] == []
        wait_until(
            lambda: not connect(node.tracker) and faces(node)["tracker"].counters.get("not_allowed"),
            "a client that is not served",
        )
    finally:
        node.path.write_text(text)
        node.call("reload")
        node.wait_serving()
    assert connect(node.tracker)


def test_a_reload_changes_the_faces(node: TrackerNode) -> None:
    before, text, other = pid_of(node), node.path.read_text(), free_port(HOST)
    try:
        node.path.write_text(text.replace(f"{HOST}:{node.tracker}", f"{HOST}:{other}"))
        assert node.call("reload")["waiting"] == []
        wait_until(lambda: connect(other), "the tracker at its new port")
        assert not connect(node.tracker)
        assert not is_alive(before)
        before = pid_of(node)
        node.path.write_text(text.partition("[tracker]")[0])
        node.call("reload")
        wait_until(lambda: not is_alive(before) and not faces(node), "no faces")
    finally:
        node.path.write_text(text)
        node.call("reload")
        node.wait_serving()


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


def test_check_says_whether_a_face_can_listen(tmp_path: Path) -> None:
    path, tracker, _ = configured(tmp_path)
    good = run([*KDHTD, "--config", path, "--check"])
    assert (good.returncode, f"serves tracker at {HOST}:{tracker}" in good.stdout) == (0, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, tracker))
        bad = run([*KDHTD, "--config", path, "--check"])
    assert bad.returncode == 2
    assert f"problem: tracker.listen: {HOST}:{tracker} cannot be bound: Address already in use" in bad.stderr


def test_a_job_survives_its_way() -> None:
    tracker = TrackerSection(listen=[FaceEndpoint("[::1]:6969")])
    senders = Senders(refused=(ip_network("10.9.0.0/16"), ip_network("fd00::/8")))
    job = FacesJob(
        nodes=["127.0.0.1:1"],
        cookie_keys=[b"\0" * 16],
        clients=SenderLists.of(senders),
        tracker=tracker,
    )
    again = FacesJob.parse(job.pack())
    assert again == job
    assert type(again.tracker.listen[0]) is FaceEndpoint
    assert list(again.wanted) == ["tracker"]
    assert again.clients.senders == senders


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
