"""What scripts and shells rely on: errors as JSON, values unchanged, names that can be seen, configurations that are found."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import node_status
from ctl import Ctl, bad, good
from daemons import KDHTCTL, DevNode, free_port, nobody, open_to_all, run
from terminals import in_terminal

import kdht
from kdht.cli.doctor import firewall, kernel
from kdht.cli.doctor.findings import Subject
from kdht.datapath.host import ruleset
from kdht.errors import KdhtError

CONFIG = """
[node]
listen = ["{listen}"]
data_dir = "{home}"
[control]
socket = "{home}/control.sock"
[datapath]
kind = "socket"
table = "kdht_here"
[access]
writes = "open"
[[key]]
secret = "a secret of many bytes"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    home = tmp_path_factory.mktemp("node") / "n1"
    home.mkdir(mode=0o700)
    listen = f"127.0.0.1:{free_port('127.0.0.1')}"
    config = home / "kdhtd.toml"
    config.write_text(CONFIG.format(listen=listen, home=home))
    config.chmod(stat.S_IRUSR | stat.S_IWUSR)
    node = DevNode(home, listen, config=config).wait_ready()
    yield node
    node.close()


@pytest.fixture
def ctl(node: DevNode) -> Ctl:
    return Ctl(node.control)


def error_of(done) -> dict[str, object]:
    assert done.stdout == b""
    return json.loads(done.stderr)


def test_errors_are_json_where_json_is_asked_for(ctl):
    version = ctl.json("put", "k", "v")["version"]
    found = error_of(ctl("put", "k", "w", "--if-version", "5", "--json"))
    assert (found["status"], found["version"], found["exit_code"]) == ("CONFLICT", version, 8)
    found = error_of(ctl("get", "absent", "--json"))
    assert (found["error"], found["status"]) == ("get 'absent': the key has no value", "NOT_FOUND")
    found = error_of(ctl("get", "--json"))
    assert (found["exit_code"], found["status"]) == (2, None)
    assert "Missing argument" in str(found["error"])
    found = error_of(ctl("status", "--json", "--socket", "/nowhere/socket"))
    assert found["exit_code"] == 5
    # Behind -- it is no option.
    bad(ctl("get", "--", "absent", "--json"), 2)


def test_a_value_ends_its_line_on_a_terminal_alone(ctl, node):
    good(ctl("put", "k", "no end"))
    good(ctl("put", "line", "with an end\n"))
    environment = {"KDHT_SOCKET": str(node.control)}
    assert in_terminal([*KDHTCTL, "get", "k"], 80, 24, environment) == "no end\n"
    assert in_terminal([*KDHTCTL, "get", "line"], 80, 24, environment) == "with an end\n"
    assert good(ctl("get", "k")) == b"no end"


def test_a_name_that_would_not_be_seen_is_quoted(ctl):
    assert good(ctl("put", "", "v")).startswith(b"stored 1 byte under '', version ")
    assert b" under 'end ', " in good(ctl("put", "end ", "v"))
    assert good(ctl("delete", "")) == b"deleted ''\n"
    assert b"closest to '' (" in good(ctl("closest", ""))
    assert b" under plain name, " in good(ctl("put", "plain name", "v"))


def test_the_running_nodes_configuration_is_found(ctl, node):
    assert ctl.json("status")["config"] == str(node.home / "kdhtd.toml")
    done = ctl("nft", "show")
    # On a host with no interface but lo it is read all the same.
    assert b"table inet kdht_here" in done.stdout or b"name some in datapath.interfaces" in done.stderr
    bad(ctl("storage", "check"), 3, str(node.home))


def test_a_stopped_nodes_records_are_found_by_its_configuration(ctl, node):
    node.end()
    try:
        environment = {**os.environ, "KDHT_CONFIG": str(node.home / "kdhtd.toml")}
        done = ctl("storage", "check", env=environment)
        assert b"checksums, index and counts agree" in good(done)
    finally:
        node.start()
        node.wait_ready()


def test_completion_of_both_programs(ctl):
    assert b"_KDHTCTL_COMPLETE" in good(ctl("completion", "bash"))
    replay = [*KDHTCTL[:-1], "kdht.replay.main", "completion"]
    for shell in ("bash", "zsh", "fish"):
        assert "_KDHT_REPLAY_COMPLETE" in run([*replay, shell]).stdout


# --- doctor and nft


def subject(tmp_path: Path, kind: str) -> Subject:
    status = node_status(datapaths=[{"name": name, "state": "up"} for name in {"socket", kind}])
    return Subject(
        config_path=tmp_path, socket=tmp_path, settings=None, config_error="", status=status, stats=None, table=None,
        daemon_error="", is_root=False, own=(), interfaces=(),
    )  # fmt: skip


def test_nft_is_found_where_only_root_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ruleset, "SYSTEM_PROGRAMS", (str(tmp_path / "sbin"),))
    assert ruleset.find_nft() is None
    (tmp_path / "sbin").mkdir()
    program = tmp_path / "sbin/nft"
    program.write_text("#!/bin/sh\necho listed\n")
    program.chmod(0o755)
    assert ruleset.find_nft() == str(program)
    assert ruleset.run_nft("nft", ["list"]) == "listed\n"
    assert ruleset.SYSTEM_PROGRAMS
    found = list(kernel.queueing(subject(tmp_path, "nfqueue")))
    assert (found[0].check, found[0].state) == ("nft", "ok")


def test_doctor_says_nothing_of_nft_for_sockets_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ruleset, "SYSTEM_PROGRAMS", ())
    assert list(kernel.queueing(subject(tmp_path, "socket"))) == []
    assert list(firewall.firewall(subject(tmp_path, "socket"))) == []
    assert [each.check for each in kernel.queueing(subject(tmp_path, "nfqueue"))] == ["nft"]


# --- The package


def test_the_exceptions_of_clients_are_in_the_package():
    for name in kdht.__all__:
        assert getattr(kdht, name) is not None
    assert issubclass(kdht.NotFound, KdhtError)
    assert issubclass(kdht.Conflict, kdht.RequestError)
    with pytest.raises(AttributeError):
        kdht.NoSuchName  # noqa: B018


def test_text_as_a_value_is_refused_with_advice(node):
    with kdht.Client(node.listen) as client, pytest.raises(TypeError, match=r"not str: encode it first"):
        client.put("k", "text")  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's socket needs two users")
def test_who_may_not_use_the_control_socket_learns_by_udp_whether_the_node_answers(node):
    open_to_all(node.home)
    readable = node.home / "readable.toml"
    readable.write_text((node.home / "kdhtd.toml").read_text())
    readable.chmod(0o644)
    command = [*nobody(), *KDHTCTL, "doctor", "--config", str(readable), "--socket", str(node.control)]
    done = run([*command, "--json"], text=False)
    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "daemon"]
    assert found["state"] == "warning"
    assert "permission denied" in found["what"]
    assert f"A node answers at {node.listen}" in found["what"]
