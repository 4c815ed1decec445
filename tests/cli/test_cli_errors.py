"""What goes wrong around kdhtctl, for every command that it can happen to: one line, the right status, nothing half done."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctl import Ctl, bad, complained
from daemons import KDHTCTL, DevNode, free_port, nobody, open_to_all, run

from kdht import Client

ASKS_DAEMON = [
    ["status"], ["top", "--once"], ["table"], ["stats"], ["datapath"], ["datapath", "socket"], ["drain"], ["move"], ["stop"],
    ["closest", "k"], ["closest", "k", "--lookup"], ["join", "127.0.0.1"], ["cluster"], ["simulate", "45"],
    ["forget", "127.0.0.1:5348"], ["storage", "stats"], ["storage", "compact"], ["storage", "export", "out"],
]  # fmt: skip
ASKS_NODE = [
    ["get", "k"], ["get", "k", "--output", "out"], ["put", "k", "v"], ["put", "k", "--file", "large"], ["delete", "k"],
    ["watch", "k"], ["watch", "k", "--output", "out"], ["watch", "k", "--set"], ["trace", "k"], ["bench"], ["load", "in.tsv"], ["dump", "keys", "-o", "out"],
    ["announce", "k", "v"], ["announce", "k", "v", "--once"], ["withdraw", "k", "v"], ["members", "k"],
]  # fmt: skip
ALL = pytest.mark.parametrize("arguments", [*ASKS_DAEMON, *ASKS_NODE], ids=" ".join)
OF_DAEMON = pytest.mark.parametrize("arguments", ASKS_DAEMON, ids=" ".join)
OF_NODE = pytest.mark.parametrize("arguments", ASKS_NODE, ids=" ".join)
GIVEN = {"large": bytes(5000), "in.tsv": b"k\tv\n", "keys": b"k\n"}
KEPT = {"out.part", "in.tsv.loaded"}
"""Where a dump and a load go on the next time."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory that commands run in, with the files that they name; its name is a socket's, too."""
    for name, content in GIVEN.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def untouched(home: Path) -> bool:
    """Whether nothing was written but what is needed to go on."""
    found = {
        path.name: path.read_bytes() for path in home.iterdir() if path.is_file() and path.name not in KEPT
    }
    return found == GIVEN


@pytest.fixture
def silent(home: Path) -> Iterator[socket.socket]:
    """A daemon that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(home / "silent.sock"))
        sock.listen()
        sock.settimeout(30)
        yield sock


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A node that hears and does not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def node_at(sock: socket.socket) -> str:
    return "{}:{}".format(*sock.getsockname())


@ALL
def test_a_dead_daemons_socket(home, arguments):
    path = home / "stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
    bad(Ctl(path)(*arguments, cwd=home), 5, str(path), "its daemon has died", "kdhtd")
    assert untouched(home)


@ALL
def test_a_socket_of_somebody_who_is_no_daemon(home, silent, arguments):
    """It answers, with what no daemon says."""
    command = Ctl(home / "silent.sock").start(*arguments, cwd=home)
    there, _ = silent.accept()
    with there:
        there.recv(4096)
        there.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    _, said = command.communicate(timeout=30)
    complained(command.returncode, said, 5, "another program answers there")
    assert untouched(home)


@OF_DAEMON
def test_ctrl_c_while_a_daemon_says_nothing(home, silent, arguments):
    command = Ctl(home / "silent.sock").start(*arguments, cwd=home)
    there, _ = silent.accept()
    with there:
        there.recv(4096)
        command.send_signal(signal.SIGINT)
        out, said = command.communicate(timeout=30)
    assert (command.returncode, out) == (130, b"")
    # What goes on without the command says so, all else ends without a word.
    goes_on = arguments == ["drain"]
    assert said.startswith(b"kdhtctl: interrupted, but the ") is goes_on
    assert goes_on or not said.strip()
    assert untouched(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's socket needs two users")
def test_a_socket_that_this_user_may_not_use(home, tmp_path_factory):
    """The --dev node's home may be reached, its socket is its owner's and its group's."""
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    try:
        open_to_all(node.home)
        open_to_all(home)
        for arguments in (*ASKS_DAEMON, *ASKS_NODE):
            command = [*nobody(), *KDHTCTL, *arguments, "--socket", str(node.control)]
            bad(run(command, cwd=home, text=False), 5, "permission denied", "ask as root")
        assert untouched(home)
    finally:
        node.close()


@OF_NODE
def test_a_node_that_does_not_answer(home, deaf, arguments):
    done = Ctl(home / "none.sock")(*arguments, "--node", node_at(deaf), "--timeout", "0.3", cwd=home)
    complained(done.returncode, done.stderr, 6, "answer")
    assert untouched(home)


@OF_NODE
def test_a_node_whose_port_is_closed(home, arguments):
    closed = f"127.0.0.1:{free_port('127.0.0.1')}"
    done = Ctl(home / "none.sock")(*arguments, "--node", closed, "--timeout", "0.3", cwd=home)
    complained(
        done.returncode,
        done.stderr,
        6,
        "no" if arguments[0] in ("watch", "trace") else f"nobody listens at {closed}",
    )
    assert untouched(home)


@OF_NODE
def test_ctrl_c_while_a_node_does_not_answer(home, deaf, arguments):
    """What can go on later says so, all else ends without a word."""
    command = Ctl(home / "none.sock").start(*arguments, "--node", node_at(deaf), "--timeout", "60", cwd=home)
    deaf.recv(2048)
    command.send_signal(signal.SIGINT)
    out, said = command.communicate(timeout=30)
    assert (command.returncode, out) == (130, b"")
    if said.strip():
        complained(130, said.lstrip(b"\n"), 130, "interrupted")
    assert untouched(home)


def test_ctrl_c_in_the_middle_of_a_large_value(home, tmp_path_factory):
    """The old value stays, in the cluster and in the file."""
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    ctl = Ctl(node.control)
    try:
        with Client(node.listen) as client:
            client.put("k", b"old")
            (home / "huge").write_bytes(bytes(32 << 20))
            before = node.call("stats")["storage"]["written"]
            putting = ctl.start("put", "k", "--file", home / "huge")
            while node.call("stats")["storage"]["written"] < before + 100:
                assert putting.poll() is None
            putting.send_signal(signal.SIGINT)
            out, said = putting.communicate(timeout=60)
            assert (putting.returncode, out, said.strip()) == (130, b"", b"")
            assert client.get("k") == b"old"
    finally:
        node.close()


def test_the_list_of_commands_with_requests_is_complete():
    """A new command has a line above, or is named here."""
    from kdht.cli.main import COMMANDS

    alone = {"doctor", "config", "key", "nft", "completion", "token"}
    """`doctor` reports that nobody answers as a finding; the others need no daemon: test_cli_setup.py, root/test_cli_nft.py,
    daemon/test_tokens.py."""
    assert {arguments[0] for arguments in (*ASKS_DAEMON, *ASKS_NODE)} | alone == set(COMMANDS)


def test_a_file_that_is_no_socket_is_called_so(tmp_path):
    path = tmp_path / "no-socket"
    path.write_text("")
    bad(Ctl(path)("status"), 5, str(path), "no socket, but another file", "--socket")
