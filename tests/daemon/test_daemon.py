"""kdhtd as a process: real --dev nodes on loopback, their clean ends and their refusals."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import KDHTD, DevNode, free_port, nobody, open_to_all, run
from paths import ROOT

from kdht import Client
from kdht.errors import NoDaemon, NotFound, RequestError, Unconfirmed
from kdht.lab.wait import wait_until
from kdht.program import control_client, notify

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
Start = Callable[..., DevNode]


@pytest.fixture
def port() -> int:
    return free_port(*HOSTS)


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts nodes on 127.0.0.N; what still runs at the end of the test is killed."""
    nodes: list[DevNode] = []

    def start(number: int, *arguments: str, home: Path | None = None, **options: object) -> DevNode:
        node = DevNode(home or tmp_path / f"n{number}", f"127.0.0.{number}:{port}", *arguments, **options)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def three(start: Start, port: int) -> list[DevNode]:
    """Three nodes that know each other."""
    first = start(1).wait_ready()
    others = [start(number, "--bootstrap", f"127.0.0.1:{port}") for number in (2, 3)]
    return [node.wait_ready(contacts=2) for node in (first, *others)]


def one_line(said: str, *words: str) -> None:
    """A user's mistake is answered with one line of kdhtd's, and no traceback."""
    assert said.startswith("kdhtd: ")
    assert said.count("\n") == 1, said
    for word in words:
        assert word in said


# --- A cluster


def test_three_nodes_serve_each_others_values(three):
    values = {f"key {n}": os.urandom(n) for n in range(0, 1000, 25)}
    clients = [Client(node.listen) for node in three]
    for number, (key, value) in enumerate(values.items()):
        clients[number % 3].put(key, value)
    for number, (key, value) in enumerate(values.items()):
        assert clients[(number + 1) % 3].get(key) == value
    # Three replicas of each; with --dev one confirms, the others follow.
    whole = [len(values)] * 3
    wait_until(lambda: [node.call("status")["records"] for node in three] == whole, "all replicas")
    assert clients[2].delete("key 0")
    with pytest.raises(NotFound):
        clients[0].get("key 0")
    for client in clients:
        client.close()


def test_a_node_keeps_its_id_its_records_and_its_contacts(three):
    node = three[1]
    before = node.call("status")
    records = before["records"] + 30
    with Client(three[0].listen) as client:
        for n in range(30):
            client.put(f"k{n}", b"v")
    wait_until(lambda: node.call("status")["records"] == records, "its replicas")
    assert node.end()[0] == 0
    saved = {each["id"] for each in json.loads((node.home / "contacts").read_text())}
    assert saved == {other.call("status")["node_id"] for other in (three[0], three[2])}
    node.arguments = ()  # without --bootstrap: what was saved has to do
    node.start()
    node.wait_ready(contacts=2)
    after = node.call("status")
    assert after["node_id"] == before["node_id"]
    assert after["records"] == records


def test_the_table_names_the_others(three):
    table = three[0].call("table")
    assert {c["address"] for b in table["buckets"] for c in b["contacts"]} == {
        three[1].listen,
        three[2].listen,
    }


# --- Clean ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(start, number, port):
    node = start(1).wait_ready()
    code, said = node.end(number)
    assert code == 0
    assert "Traceback" not in said
    assert not node.control.exists()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
    with (node.home / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_kdhtctl_stop_waits_until_everything_is_released(start, port):
    node = start(1).wait_ready()
    control_client.stop(node.control)
    again = start(1)  # at once: nothing may be held any more
    assert again.wait_ready().call("status")["state"] == "running"
    assert node.end()[0] == 0


def test_a_write_under_way_is_confirmed_before_the_end(start):
    node = start(1).wait_ready()
    with Client(node.listen) as client:
        client.put("a", b"1")
    assert node.end()[0] == 0
    node.start()
    node.wait_ready()
    with Client(node.listen) as client:
        assert client.get("a") == b"1"


def test_a_service_manager_is_told(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        node = start(1, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert sock.recv(100) == b"READY=1"
        assert node.call("status")["state"] == "running"
        assert node.end()[0] == 0
        assert sock.recv(100) == b"STOPPING=1"


def test_the_watchdog_hears_the_event_loop(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        watched = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        node = start(1, env={**os.environ, **watched})
        heard = [sock.recv(100) for _ in range(4)]
        assert sorted(heard) == [b"READY=1"] + 3 * [b"WATCHDOG=1"]
        os.kill(node.process.pid, signal.SIGSTOP)
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):  # once what was on its way is read
            list(iter(lambda: sock.recv(100), b""))
        os.kill(node.process.pid, signal.SIGCONT)
        sock.settimeout(20)
        assert sock.recv(100) == b"WATCHDOG=1"
        assert node.end()[0] == 0


@pytest.mark.parametrize("microseconds", ["", "0", "soon", "-1"])
def test_without_a_watchdog_no_beat_is_sent(microseconds, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    assert notify.watchdog_seconds() is None


def test_the_watchdog_beat_is_for_the_watched_process(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert notify.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert notify.watchdog_seconds() is None


def test_logs_as_json(start):
    _, said = start(1, "--log-format", "json").wait_ready().end()
    lines = [json.loads(line) for line in said.splitlines()]
    assert {"started", "ready", "stopped"} <= {line["message"] for line in lines}
    assert all({"time", "level", "logger"} <= set(line) for line in lines)


# --- SIGHUP

OLD, NEW = (1, "the first secret of all"), (2, "the second secret of all")


def write_config(path: Path, listen: str, home: Path, *keys: tuple[int, str], more: str = "") -> Path:
    bootstrap = listen.replace("127.0.0.2", "127.0.0.1")
    path.write_text(
        f'[node]\nlisten = ["{listen}"]\nbootstrap = ["{bootstrap}"]\ndata_dir = "{home}"\n{more}'
        + "".join(f'[[key]]\nepoch = {epoch}\nsecret = "{secret}"\n' for epoch, secret in keys)
        + f'[control]\nsocket = "{home}/control.sock"\n[datapath]\nkind = "socket"\n'
    )
    return path


def test_the_secret_is_changed_while_traffic_flows(start, tmp_path, port):
    """Accept the new key, sign with it, drop the old one: after each step on each node all works."""
    nodes = []
    for number in (1, 2):
        config = write_config(
            tmp_path / f"{number}.toml", f"127.0.0.{number}:{port}", tmp_path / f"n{number}", OLD
        )
        nodes.append(start(number, config=config))
    for node in nodes:
        node.wait_ready(contacts=1)
    with Client(nodes[0].listen) as one, Client(nodes[1].listen) as two:
        for keys in ((OLD, NEW), (NEW, OLD), (NEW,)):
            for number, node in enumerate(nodes, start=1):
                write_config(tmp_path / f"{number}.toml", node.listen, node.home, *keys)
                node.process.send_signal(signal.SIGHUP)
                wanted = [epoch for epoch, _ in keys]
                wait_until(lambda: node.call("status")["key_epochs"] == wanted, "the new keys")  # noqa: B023
                for n in range(20):
                    one.put(f"k{n}", f"{keys}{number}".encode())
                    assert two.get(f"k{n}") == f"{keys}{number}".encode()
    relayed = sum(node.call("stats")["packets"]["all"]["RELAYED"] for node in nodes)
    assert relayed > 0, "nothing went from node to node"


def test_a_bad_configuration_at_sighup_changes_nothing(start, tmp_path, port):
    config = write_config(tmp_path / "1.toml", f"127.0.0.1:{port}", tmp_path / "n1", OLD)
    node = start(1, config=config).wait_ready()
    config.write_text("[node")
    node.process.send_signal(signal.SIGHUP)
    code, said = node.end()
    assert code == 0
    assert "configuration not reloaded" in said
    assert "not valid TOML" in said


def test_sighup_names_the_settings_that_need_a_restart(start, tmp_path, port):
    listen, home = f"127.0.0.1:{port}", tmp_path / "n1"
    node = start(1, config=write_config(tmp_path / "1.toml", listen, home, OLD)).wait_ready()
    write_config(tmp_path / "1.toml", listen, home, OLD, more="hop_limit = 3\ncookies = false\n")
    node.process.send_signal(signal.SIGHUP)
    _, said = node.end()
    assert 'fields="node.cookies, node.hop_limit"' in said


# --- Refusals


def refused(node: DevNode, code: int, *words: str) -> None:
    got, said = node.process.wait(30), node.said()
    one_line(said, *words)
    assert got == code


def test_a_second_instance_on_the_same_data(start):
    first = start(1).wait_ready()
    refused(start(2, home=first.home), 3, "runs on this data directory", str(first.process.pid))
    assert first.call("status")["state"] == "running"


def test_a_port_in_use(start, tmp_path, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        refused(start(1), 4, f"port {port} is in use")


def test_an_address_that_is_not_ours(tmp_path, port):
    path = tmp_path / "kdhtd.toml"
    path.write_text(
        f'[node]\nlisten = ["192.0.2.1:{port}"]\ndata_dir = "{tmp_path}/data"\n[access]\nwrites = "open"\n'
        f'[[key]]\nsecret = "0123456789abcdef"\n[control]\nsocket = "{tmp_path}/control.sock"\n'
        '[datapath]\nkind = "socket"\n'
    )
    done = run([*KDHTD, "--config", path])
    one_line(done.stderr, "192.0.2.1")
    assert done.returncode == 4


def test_a_data_directory_that_is_a_file(start, tmp_path):
    (tmp_path / "n1").write_text("")
    refused(start(1, "--control", str(tmp_path / "c")), 3, str(tmp_path / "n1"), "File exists")


def test_a_data_directory_that_may_not_be_written(start, tmp_path):
    home = tmp_path / "n1"
    home.mkdir(mode=0o555)
    home.chmod(0o555)
    open_to_all(tmp_path)
    refused(start(1, prefix=nobody()), 3, str(home), "Permission denied")


def damage(node: DevNode, pattern: str) -> None:
    """Fill the files that match with what LevelDB never wrote."""
    paths = list((node.home / "records").glob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(b"\xff" * max(64, path.stat().st_size))


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_a_damaged_database(start, pattern):
    node = start(1).wait_ready()
    assert node.end()[0] == 0
    damage(node, pattern)
    refused(start(1), 3, str(node.home / "records"), "damaged")


def test_a_damaged_node_id(start):
    node = start(1).wait_ready()
    node.end()
    (node.home / "node_id").write_text("no hex\n")
    refused(start(1), 3, "node_id", "remove it")
    done = run([*KDHTD, "--dev", "--listen", node.listen, "--data-dir", node.home, "--check"])
    assert done.returncode == 3
    assert "node_id: not 40 hex digits: remove it" in done.stderr


def test_damaged_contacts_are_ignored(start):
    node = start(1).wait_ready()
    node.end()
    (node.home / "contacts").write_text('[{"id": "00"')
    code, said = start(1).wait_ready().end()
    assert code == 0
    assert "saved contacts ignored" in said


def test_after_kill_the_stale_control_socket_is_replaced(start):
    node = start(1).wait_ready()
    node.end(signal.SIGKILL)
    assert node.control.is_socket()
    with pytest.raises(NoDaemon, match="has died"):
        node.call("status")
    code, said = start(1).wait_ready().end()
    assert code == 0
    assert "stale control socket replaced" in said


def test_a_live_control_socket_is_not_taken(start):
    first = start(1).wait_ready()
    refused(start(2, "--control", str(first.control)), 2, "another daemon answers there")
    assert first.call("status")["state"] == "running"


def test_a_file_that_is_no_socket_is_not_removed(start, tmp_path):
    (tmp_path / "precious").write_text("keep")
    refused(start(1, "--control", str(tmp_path / "precious")), 2, "not a socket")
    assert (tmp_path / "precious").read_text() == "keep"


def test_nfqueue_without_root(tmp_path, port):
    config = tmp_path / "kdhtd.toml"
    config.write_text(
        f'[node]\nlisten = ["127.0.0.1:{port}"]\ndata_dir = "{tmp_path}/data"\n'
        f'[[key]]\nsecret = "0123456789abcdef"\n[control]\nsocket = "{tmp_path}/control.sock"\n'
        '[datapath]\nkind = "nfqueue"\ninterfaces = ["eth0"]\n'
    )
    open_to_all(tmp_path)
    for mode in ((), ("--check",)):
        done = run([*nobody(), *KDHTD, "--config", config, *mode])
        assert done.returncode == 4, done.stderr
        assert "root" in done.stderr
        assert "Traceback" not in done.stderr
        # That user must be able to read the secret, which is warned of.
        problems = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(problems) == 1


def test_an_ordinary_user_can_run_a_dev_node(start, tmp_path):
    open_to_all(tmp_path)
    node = start(1, prefix=nobody()).wait_ready()
    with Client(node.listen) as client:
        client.put("a", b"1")
        assert client.get("a") == b"1"
    assert node.end()[0] == 0


def test_ordinary_users_nodes_find_each_other(start, tmp_path):
    """With some capability, too, that the daemon gives up and that Python's own files may need."""
    open_to_all(tmp_path)
    first = start(1, prefix=nobody()).wait_ready()
    start(2, "--bootstrap", first.listen, prefix=nobody()).wait_ready(contacts=1)


def test_a_node_confirms_nothing_before_it_has_joined(start, port):
    """Alone it would take itself for the whole cluster, and what it confirmed nobody else would have."""
    lost = start(2, "--bootstrap", f"127.0.0.1:{port}")
    wait_until(lost.serves, "its control socket")
    with Client(lost.listen, timeout=1) as client:
        with pytest.raises(RequestError, match="is busy"):
            client.put("a", b"1")
        with pytest.raises(Unconfirmed):
            client.get("a")
    start(1).wait_ready()
    lost.wait_ready(contacts=1)
    with Client(lost.listen) as client:
        client.put("a", b"1")
    with Client(f"127.0.0.1:{port}") as client:
        assert client.get("a", quorum=True) == b"1"


def test_the_default_state_directory_is_per_address(tmp_path, port):
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    env.pop("KDHT_SOCKET", None)
    done = run([*KDHTD, "--dev", "--listen", f"127.0.0.3:{port}", "--check"], env=env)
    assert done.returncode == 0
    assert f"keeps its data in {tmp_path}/kdht/dev-127.0.0.3-{port}, which it makes" in done.stdout
    assert not (tmp_path / "kdht").exists(), "--check made something"


# --- --check


def test_check_beside_a_running_daemon(start):
    node = start(1).wait_ready()
    done = run([*KDHTD, "--dev", "--listen", node.listen, "--data-dir", node.home, "--check"])
    assert done.returncode == 0
    assert "runs on this data directory now" in done.stdout


def test_check_finds_the_errors_of_a_start(tmp_path, port):
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        done = run(
            [*KDHTD, "--dev", "--listen", f"127.0.0.1:{port}", "--data-dir", tmp_path / "file", "--check"]
        )
    assert done.returncode == 4
    problems = [line for line in done.stderr.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dev", "--config", "x"], "--dev needs no --config"),
        (["--config", "/nonexistent/kdhtd.toml"], "No such file"),
        (["--listen"], "--listen"),
        (["--bogus"], "--bogus"),
        (["--dev", "--listen", "10.0.0.1"], "loopback only"),
        (["--dev", "--datapath", "nfqueue"], "socket datapath only"),
        (["--dev", "--bootstrap", "a b"], "node.bootstrap[0]"),
        (["--dev", "--datapath", "carrier-pigeon"], "--datapath"),
    ],
)
def test_bad_command_lines(arguments, words):
    done = run([*KDHTD, *arguments])
    one_line(done.stderr, words)
    assert done.returncode == 2
    assert done.stdout == ""


def test_version_help_and_example():
    assert run([*KDHTD, "--version"]).stdout.startswith("kdhtd ")
    assert "--dev" in run([*KDHTD, "--help"]).stdout
    assert run([*KDHTD, "--example"]).stdout == (ROOT / "docs/kdhtd.toml").read_text()
