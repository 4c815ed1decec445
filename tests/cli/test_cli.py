"""kdhtctl against a real daemon: every command, with --json and without, and every way it ends."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from ctl import Ctl, bad, good
from daemons import KDHTCTL, DevNode, free_port, nobody, open_to_all, run
from paths import ROOT

from kdht import Client
from kdht.cli.main import COMMANDS, command
from kdht.cli.report import duration
from kdht.config import places
from kdht.errors import DIFFERENCES, EXIT_CODES, UNHEALTHY, KdhtError
from kdht.lab.wait import wait_until
from kdht.program import boundary

SILENT = f"127.0.0.1:{free_port('127.0.0.1')}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    port = free_port("127.0.0.1")
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", f"127.0.0.1:{port}").wait_ready()
    yield node
    node.close()


@pytest.fixture
def ctl(node: DevNode) -> Ctl:
    return Ctl(node.control)


# --- What a node tells


def test_status(ctl, node):
    text = good(ctl("status")).decode()
    data = json.loads(good(ctl("status", "--json")))
    assert data["address"] == node.listen
    assert data["pid"] == node.process.pid
    assert data["state"] == "running"
    assert [path["name"] for path in data["datapaths"]] == ["socket"]
    assert "health" in text
    for shown in (data["node_id"], node.listen, "socket datapath: up", "secret is public"):
        assert shown in text


def test_datapath_tells_and_refuses_to_switch_with_one_line(ctl, node):
    """This node is on loopback, where nothing but the socket can work."""
    assert "socket of socket, nfqueue, ebpf" in good(ctl("datapath")).decode()
    done = ctl("datapath", "nfqueue")
    assert done.returncode != 0
    assert b"refused switch: no interface but lo" in done.stderr
    data = json.loads(good(ctl("datapath", "socket", "--json")))
    assert data["kind"] == "socket"


def test_table_with_another_node(ctl, node, tmp_path):
    port = node.listen.rpartition(":")[2]
    other = DevNode(tmp_path / "n2", f"127.0.0.2:{port}", "--bootstrap", node.listen).wait_ready(contacts=1)
    try:
        node.wait_ready(contacts=1)
        text = good(ctl("table")).decode()
        data = json.loads(good(ctl("table", "--json")))
        (contact,) = [contact for bucket in data["buckets"] for contact in bucket["contacts"]]
        assert contact["address"] == other.listen
        assert contact["id"] == other.call("status")["node_id"]
        assert contact["id"] in text
        assert other.listen in text
    finally:
        other.end()
    # It went without giving its records away, so this node would wait for it before it decides on a condition.
    wait_until(lambda: ctl("forget", contact["id"]).returncode == 0 or None, "the other node is forgotten")


def test_stats_count_what_happened(ctl):
    before = json.loads(good(ctl("stats", "--json")))
    good(ctl("put", "counted", "x"))
    after = json.loads(good(ctl("stats", "--json")))
    assert after["requests"].get("PUT OK", 0) == before["requests"].get("PUT OK", 0) + 1
    # The node of the test before may still be known, and be passed over by a retry.
    reasons = ("OWNER", "ATTEMPT_ENDS")
    ended = [sum(data["packets"]["socket"][name] for name in reasons) for data in (before, after)]
    assert ended[1] > ended[0]
    text = good(ctl("stats")).decode()
    assert any(name in text for name in reasons)
    assert "BAD_MAGIC" not in text
    assert "BAD_MAGIC" in good(ctl("stats", "--all")).decode()


def test_stop(ctl, tmp_path):
    for json_flag in ((), ("--json",)):
        other = DevNode(tmp_path / "n3", f"127.0.0.3:{free_port('127.0.0.3')}").wait_ready()
        said = good(ctl("stop", "--socket", str(other.control), *json_flag)).decode()
        assert str(other.process.pid) in said
        assert other.process.wait(30) == 0
        other.said()


# --- put, get, delete


def test_a_value_is_written_and_read(ctl):
    assert "stored 5 bytes" in good(ctl("put", "greeting", "hello")).decode()
    assert good(ctl("get", "greeting")) == b"hello"
    data = json.loads(good(ctl("get", "greeting", "--json")))
    assert (data["key"], data["value"], data["base64"], data["bytes"], data["ttl"]) == (
        "greeting", "hello", "aGVsbG8=", 5, 0,
    )  # fmt: skip
    assert "deleted greeting" in good(ctl("delete", "greeting")).decode()
    bad(ctl("get", "greeting"), 7, "the key has no value")
    bad(ctl("get", "greeting", "--json"), 7, "the key has no value")
    bad(ctl("delete", "greeting"), 7, "the key has no value")


def test_put_and_delete_as_json(ctl):
    data = json.loads(good(ctl("put", "k", "v", "--ttl", "2h", "--json")))
    assert (data["key"], data["bytes"], data["ttl"]) == ("k", 1, 7200)
    assert json.loads(good(ctl("get", "k", "--json")))["version"] == data["version"]
    assert json.loads(good(ctl("delete", "k", "--json"))) == {"key": "k"}


def test_every_byte_comes_back(ctl, tmp_path):
    value = bytes(range(256)) * 4
    (tmp_path / "in").write_bytes(value)
    good(ctl("put", "bytes", "--file", str(tmp_path / "in")))
    assert good(ctl("get", "bytes")) == value
    assert good(ctl("get", "bytes", "--output", str(tmp_path / "out"))) == b""
    assert (tmp_path / "out").read_bytes() == value
    assert json.loads(good(ctl("get", "bytes", "--json")))["value"] is None


def test_a_large_value_is_written_and_read(ctl, tmp_path):
    value = os.urandom(100_000)
    (tmp_path / "in").write_bytes(value)
    assert b"stored 100,000 bytes" in good(ctl("put", "big", "--file", str(tmp_path / "in")))
    assert good(ctl("get", "big")) == value
    assert json.loads(good(ctl("get", "big", "--json")))["bytes"] == len(value)
    good(ctl("get", "big", "--output", str(tmp_path / "out")))
    assert (tmp_path / "out").read_bytes() == value
    good(ctl("delete", "big"))
    bad(ctl("get", "big"), 7, "the key has no value")


def test_a_quorum_read(ctl, tmp_path):
    """Of a node that never had others: a majority of one."""
    alone = DevNode(tmp_path / "alone", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    try:
        good(ctl("put", "a", "1", "--node", alone.listen))
        assert good(ctl("get", "a", "--quorum", "--node", alone.listen)) == b"1"
        bad(ctl("get", "b", "--quorum", "--node", alone.listen), 7, "the key has no value")
    finally:
        alone.close()


@pytest.mark.parametrize("arguments", [("-",), ("--file", "-")])
def test_a_value_from_standard_input(ctl, arguments):
    good(ctl("put", "piped", *arguments, input=b"a\0b\n"))
    assert good(ctl("get", "piped")) == b"a\0b\n"


def test_an_empty_value_is_a_value(ctl):
    good(ctl("put", "empty", ""))
    assert good(ctl("get", "empty")) == b""


def test_a_key_that_is_no_text(ctl):
    good(ctl("put", b"\xff\xfe", "v"))
    assert good(ctl("get", b"\xff\xfe")) == b"v"
    assert json.loads(good(ctl("get", b"\xff\xfe", "--json")))["key"] == r"\xff\xfe"


def test_a_node_named_with_an_option_or_the_environment(ctl, node, tmp_path):
    nowhere = str(tmp_path / "none")
    good(ctl("put", "a", "1", "--node", node.listen, "--socket", nowhere))
    env = {**os.environ, "KDHT_NODE": node.listen, "KDHT_SOCKET": nowhere}
    assert run([*KDHTCTL, "get", "a"], env=env).stdout == "1"


def test_a_node_that_does_not_answer_is_passed_over(ctl, node):
    good(ctl("put", "a", "1"))
    assert good(ctl("get", "a", "--node", SILENT, "--node", node.listen)) == b"1"


# --- Errors


def test_a_value_too_large(ctl, tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate((1 << 30) + 1)
    bad(ctl("put", "big", "--file", str(tmp_path / "big")), 6, "at most 1073741824 bytes")
    bad(ctl("put", "--immutable", "x" * 1105), 6, "at most 1104 bytes")


def test_a_large_value_under_a_condition(ctl):
    good(ctl("put", "conditional", "x" * 1097, "--if-version", "0"))
    bad(ctl("put", "conditional", "y" * 1097, "--if-version", "0"), 8, "version")
    assert good(ctl("get", "conditional")) == b"x" * 1097


def test_a_conflict_reports_the_stored_version(ctl):
    version = json.loads(good(ctl("put", "versions", "1", "--json")))["version"]
    bad(ctl("put", "versions", "2", "--if-version", "0"), 8, f"the key has version {version}")
    bad(ctl("delete", "versions", "--if-version", "7"), 8, f"the key has version {version}")
    good(ctl("delete", "versions", "--if-version", str(version)))
    bad(ctl("put", "versions", "2", "--if-version", str(version)), 8, "the key has no record")


def test_no_answer(ctl):
    bad(
        ctl("get", "a", "--node", SILENT, "--timeout", "3600"),
        6,
        f"nobody listens at {SILENT}: is kdhtd running",
    )


NEEDS_DAEMON = [
    ["status"], ["top", "--once"], ["table"], ["stats"], ["datapath"], ["stop"], ["closest", "k"], ["closest", "k", "--lookup"],
    ["join", "127.0.0.1"], ["cluster"], ["simulate", "45"], ["storage", "stats"], ["storage", "compact"],
]  # fmt: skip
NEEDS_NODE = [["get", "k"], ["put", "k", "v"], ["delete", "k"], ["watch", "k"], ["trace", "k"], ["bench"]]


@pytest.mark.parametrize("arguments", NEEDS_DAEMON, ids=" ".join)
@pytest.mark.parametrize("json_flag", [(), ("--json",)])
def test_no_daemon(ctl, tmp_path, arguments, json_flag):
    path = str(tmp_path / "none.sock")
    bad(ctl(*arguments, "--socket", path, *json_flag), 5, "no such socket", "start it")


@pytest.mark.parametrize("arguments", NEEDS_NODE, ids=" ".join)
def test_no_daemon_and_no_node(ctl, tmp_path, arguments):
    bad(ctl(*arguments, "--socket", str(tmp_path / "none.sock")), 5, "no such socket", "--node")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's socket needs two users")
@pytest.mark.parametrize("name", ["status", "stop", "get"])
def test_a_socket_that_this_user_may_not_use(node, name):
    """The --dev node's home may be reached, its socket is its owner's and its group's."""
    open_to_all(node.home)
    arguments = [name, *(["k"] if name == "get" else []), "--socket", str(node.control)]
    done = run([*nobody(), *KDHTCTL, *arguments], text=False)
    bad(done, 5, "permission denied", "ask as root")


def test_a_dead_daemons_socket(ctl, tmp_path):
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
    bad(ctl("status", "--socket", str(path)), 5, "has died")
    bad(ctl("get", "a", "--socket", str(path)), 5, "has died", "--node")


def test_a_file_that_is_no_socket(ctl, tmp_path):
    (tmp_path / "file").write_text("")
    bad(ctl("status", "--socket", str(tmp_path / "file")), 5, str(tmp_path / "file"))


def test_a_home_where_this_user_may_not_look(tmp_path):
    """The usual places are looked at, and what cannot be seen is not there."""
    (tmp_path / "home").mkdir(mode=0o700)
    open_to_all(tmp_path)
    env = {key: value for key, value in os.environ.items() if key not in ("KDHT_SOCKET", "XDG_STATE_HOME")}
    done = run([*nobody(), *KDHTCTL, "status"], env={**env, "HOME": str(tmp_path / "home")}, text=False)
    bad(done, 5, "no such socket" if not places.SOCKET.exists() else "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["put", "k"], "give either VALUE or --file"),
        (["put", "k", "v", "--file", "-"], "give either VALUE or --file"),
        (["put"], "Missing argument 'KEY'"),
        (["put", "k", "v", "--ttl", "soon"], "90s, 15m, 12h or 7d"),
        (["put", "k", "v", "--ttl", "-1"], "--ttl"),
        (["put", "k", "v", "--ttl", "99999d"], "--ttl"),
        (["put", "k", "v", "--ttl", "0"], "--ttl"),
        (["put", "k", "v", "--if-version", "-1"], "--if-version"),
        (["delete", "k", "--if-version", "0"], "--if-version"),
        (["put", "k", "--file", "/nonexistent/file"], "/nonexistent/file"),
        (["get", "k", "--timeout", "0"], "--timeout"),
        (["get", "k", "--node", "no such host.invalid"], "no such host.invalid"),
        (["get", "k", "--node", "127.0.0.1:99999"], "65535"),
        (["status", "--socket", "/" + "x" * 108], "too long"),
        (["status", "--bogus"], "--bogus"),
    ],
)
def test_usage_errors(ctl, arguments, words):
    bad(ctl(*arguments), 2, words)


def test_an_output_that_cannot_be_written(ctl, tmp_path):
    good(ctl("put", "a", "1"))
    bad(ctl("get", "a", "--output", str(tmp_path / "none" / "out")), 1, "No such file or directory")
    assert os.listdir(tmp_path) == []


def test_a_full_standard_output(ctl, node):
    good(ctl("put", "a", "1"))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*KDHTCTL, "get", "a", "--node", node.listen],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("kdhtctl: ")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["status", "stats"])
def test_a_reader_that_goes_away(node, name):
    """As in `kdhtctl stats --json | head -1`: no complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*KDHTCTL, name, "--json", "--socket", str(node.control)],
            stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_in_the_middle_of_a_value(node, tmp_path, unbuffered):
    """As in `kdhtctl get big | head -c 10`."""
    with Client(node.listen) as client:
        client.put_large("long", bytes(1 << 20))
    with subprocess.Popen(
        [*KDHTCTL, "get", "long", "--node", node.listen],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == bytes(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """The names that lead to each command, those of groups within included."""
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, *before, name)
        else:
            yield (*before, name)


@pytest.mark.parametrize("names", list(commands(command)), ids=" ".join)
def test_every_command_has_help_and_json(names):
    help_text = CliRunner().invoke(command, [*names, "--help"])
    assert help_text.exit_code == 0
    assert ("--json" in help_text.output) == (names != ("completion",))  # which writes a script


def test_the_overview_has_every_command_and_every_exit_code():
    overview = CliRunner().invoke(command, ["--help"]).output
    assert all(f"  {name} " in overview for name in COMMANDS)
    told = " ".join(overview.split())
    assert all(f"{code} {meaning}" in told for code, meaning in EXIT_CODES.items())


def test_every_error_ends_in_a_code_that_is_documented():
    kinds = [KdhtError, *KdhtError.__subclasses__()]
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each not in kinds]
        assert kind.exit_code in EXIT_CODES
    assert {DIFFERENCES, UNHEALTHY, boundary.INTERRUPTED} <= set(EXIT_CODES)


def test_without_arguments_it_shows_its_help(ctl):
    done = ctl()
    assert done.returncode == 2
    assert b"This node:" in done.stderr


HEAVY = ("rich", "plyvel", "pyroute2", "scapy", "kdht._routing", "asyncio", "tomlkit")


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["stats"], ["get", "k"], ["put", "k", "v"], ["closest", "k"], ["trace", "k"], ["stop"], ["completion", "bash"]],
    ids=" ".join,
)  # fmt: skip
def test_a_simple_command_loads_nothing_heavy(tmp_path, arguments):
    """What makes kdhtctl slow to start; a drawing may load rich, later."""
    code = (
        "import sys, kdht.cli.main as m\n"
        "from click.testing import CliRunner\n"
        f"CliRunner().invoke(m.command, {arguments!r})\n"
        f"print([n for n in {HEAVY!r} if n in sys.modules])\n"
    )
    env = {**os.environ, "KDHT_SOCKET": str(tmp_path / "none")}
    assert run([sys.executable, "-c", code], env=env).stdout == "[]\n"


def test_an_internal_error_keeps_its_traceback():
    """Only our own errors become one line: a bug keeps its traceback."""

    class Broken:
        def main(self, **_: object) -> None:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        boundary.run(Broken(), "kdhtctl")


def test_an_error_of_ours_is_one_line_whatever_is_in_it(capsys):
    class Failing:
        def main(self, **_: object) -> None:
            raise KdhtError("two\nlines")

    with pytest.raises(SystemExit) as caught:
        boundary.run(Failing(), "kdhtctl")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "kdhtctl: two lines\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 m"),
        (3661, "1 h 1 m"),
        (90061, "1 d 1 h"),
        (86400, "1 d"),
        (86401, "1 d 1 s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
