"""Data from outside that is nested too deep or holds numbers out of range: one clear line, never a traceback."""

import json
import socket
from pathlib import Path

import pytest
from daemons import KDHTCTL, KDHTD, DevNode, free_port, run

DEEP = "[" * 30_000 + "]" * 30_000
HUGE = "9" * 6000
VALUES = [
    DEEP,
    HUGE,
    "-1",
    "1e400",
    "18446744073709551616",
    '"\\ud800"',
    "null",
    "{}",
    '{"a":' * 20_000 + "1" + "}" * 20_000,
]
READ_ONLY = [
    "status",
    "table",
    "stats",
    "latency",
    "datapath",
    "storage",
    "export",
    "lookup",
    "replicas",
    "shares",
]
CHANGING = ["switch", "join", "forget", "move"]
FIELDS = ["key", "start", "limit", "kind", "node", "addresses", "anyway", "unknown"]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = DevNode(tmp_path_factory.mktemp("node"), f"127.0.0.1:{free_port('127.0.0.1')}")
    yield node.wait_ready()
    code, said = node.end()
    assert code == 0
    assert "traceback" not in said.lower()


def asked(node: DevNode, line: str) -> dict:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect(str(node.control))
        sock.sendall(line.encode() + b"\n")
        return json.loads(sock.makefile().readline())


@pytest.mark.parametrize("method", [*READ_ONLY, *CHANGING])
def test_bad_control_parameters_cause_no_internal_error(node, method):
    for field in FIELDS:
        for value in VALUES:
            line = f'{{"method":"{method}","params":{{"{field}":{value}}}}}'
            answer = asked(node, line) if len(line) < 64_000 else {}
            assert "inside the daemon" not in answer.get("error", ""), (field, value[:30])
            assert "\n" not in answer.get("error", "")


@pytest.mark.parametrize("value", VALUES)
def test_a_request_of_another_form_is_refused(node, value):
    for line in (value, f'{{"method":{value}}}', f'{{"method":"status","params":{value}}}'):
        if len(line) < 64_000:
            answer = asked(node, line)
            assert set(answer) == {"error"} or line.endswith(":{}}")


def test_nothing_of_that_hurt_the_node(node):
    assert asked(node, '{"method":"status"}')["result"]["ready"]


def complained(command: list, code: int) -> str:
    """One line on standard error."""
    done = run(command)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr[-500:]
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("value", [*VALUES[:5], "inf", "nan", "1e999", "9999-12-31"])
@pytest.mark.parametrize("field", ["node.hop_limit", "node.listen", "x"])
def test_a_configuration_is_one_line(tmp_path, value, field):
    path = tmp_path / "kdhtd.toml"
    table, _, name = field.rpartition(".")
    path.write_text((f"[{table}]\n" if table else "") + f"{name} = {value}\n")
    said = complained([*KDHTD, "--config", path], 2)
    assert str(path) in said


HEAD = '{"kdht":"records","format":1}\n'


def line(**fields: str) -> str:
    whole = {"key": f'"{"00" * 20}"', "version": "1", "expiry": "0", "flags": "0", "value": '""', **fields}
    return "{" + ",".join(f'"{name}":{value}' for name, value in whole.items()) + "}\n"


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", ["key", "version", "expiry", "flags", "value", "unknown"])
def test_an_import_is_one_line(tmp_path, value, field):
    path = tmp_path / "in.jsonl"
    path.write_text(HEAD + line(**{field: value}))
    command = [*KDHTCTL, "storage", "import", "--data-dir", tmp_path / "data", path]
    done = run(command)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", ["key", "value", "base64", "ttl", "unknown"])
def test_a_load_is_one_line(tmp_path, node, value, field):
    path = tmp_path / "in.jsonl"
    path.write_text(
        "{" + ",".join([f'"{field}":{value}', *(['"key":"k"'] if field != "key" else [])]) + "}\n"
    )
    complained([*KDHTCTL, "load", path, "--node", node.listen], 2)


def test_a_load_state_of_another_form_is_one_line(tmp_path, node):
    path = tmp_path / "in.tsv"
    path.write_text("k\tv\n")
    Path(f"{path}.loaded").write_text(DEEP)
    assert "--restart" in complained([*KDHTCTL, "load", path, "--node", node.listen], 2)


@pytest.mark.parametrize("content", [DEEP, HUGE, '{"result":' + DEEP + "}"])
def test_another_program_at_the_control_socket_is_one_line(tmp_path, content):
    """It may be anything that listens there."""
    import threading

    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(content.encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = run([*KDHTCTL, "status", "--socket", path])
        thread.join()
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_saved_contacts_of_another_form_are_ignored(tmp_path):
    (tmp_path / "contacts").write_text(DEEP)
    node = DevNode(tmp_path, f"127.0.0.1:{free_port('127.0.0.1')}")
    try:
        node.wait_ready()
    finally:
        code, said = node.end()
    assert (code, "saved contacts ignored" in said, "Traceback" in said) == (0, True, False)


def test_a_world_readable_secret_is_warned_of(tmp_path):
    path = tmp_path / "kdhtd.toml"
    path.write_text(
        f'[node]\nlisten = ["127.0.0.1"]\ndata_dir = "{tmp_path}/data"\n'
        f'[[key]]\nsecret = "sixteen bytes or more"\n[control]\nsocket = "{tmp_path}/c.sock"\n'
    )
    for mode, warned in ((0o644, True), (0o600, False)):
        path.chmod(mode)
        done = run([*KDHTCTL, "config", "check", "--config", path])
        said = "".join((done.stdout + done.stderr).split())
        assert (f"{path}:everyusercanreadthissecret" in said) is warned, done.stdout
