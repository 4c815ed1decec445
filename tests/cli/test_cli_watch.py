"""kdhtctl watch: lines, JSON and a file, and how it ends."""

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ctl import Ctl, bad, complained, good
from daemons import DevNode, free_port

from kdht import Client
from kdht.lab.wait import wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    listen = f"127.0.0.1:{free_port('127.0.0.1')}"
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", listen).wait_ready()
    yield node
    node.close()


@pytest.fixture
def ctl(node: DevNode) -> Ctl:
    return Ctl(node.control)


def next_line(watching: subprocess.Popen[bytes]) -> bytes:
    assert watching.stdout is not None
    return watching.stdout.readline()


def next_state(watching: subprocess.Popen[bytes]) -> dict[str, Any]:
    return dict(json.loads(next_line(watching)))


def ended(watching: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    out, err = watching.communicate(timeout=30)
    assert out == b""
    return watching.returncode, err.lstrip(b"\n")


def test_every_change_is_an_object_on_a_line(ctl, node):
    watching = ctl.start("watch", "k", "--count", "4", "--json")
    first = next_state(watching)
    assert (first["key"], first["value"], first["version"]) == ("k", None, 0)
    with Client(node.listen) as client:
        version = client.put("k", b"one")
        told = next_state(watching)
        assert (told["value"], told["version"], told["bytes"]) == ("one", version, 3)
        client.delete("k")
        assert next_state(watching)["value"] is None
        large = bytes(range(256)) * 20
        client.put_large("k", large)
        assert next_state(watching)["bytes"] == len(large)
    assert ended(watching) == (0, b"")


def test_lines_hold_nothing_that_a_terminal_obeys(ctl, node):
    with Client(node.listen) as client:
        client.put("lines", b"a\x1b[31m\n\xff" + b"x" * 100)
    shown = good(ctl("watch", "lines", "--count", "1")).decode()
    assert r"108 bytes: a\x1b[31m\n\xffxxx" in shown
    assert shown.endswith("...\n")
    assert shown.count("\n") == 1
    assert "no value" in good(ctl("watch", "nothing", "-c", "1")).decode()


def test_a_file_follows_the_value(ctl, node, tmp_path):
    file = tmp_path / "value"
    file.write_text("left from an earlier time")
    watching = ctl.start("watch", "followed", "--output", file, "--count", "3")
    next_line(watching)
    assert not file.exists()
    with Client(node.listen) as client:
        client.put("followed", b"\x00one")
        next_line(watching)
        assert file.read_bytes() == b"\x00one"
        client.delete("followed")
    assert b"no value" in next_line(watching)
    assert ended(watching) == (0, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(ctl, tmp_path):
    good(ctl("put", "kept", "v"))
    bad(ctl("watch", "kept", "--output", tmp_path / "none" / "file"), 1, "No such file or directory")


def test_ctrl_c(ctl):
    watching = ctl.start("watch", "k", "--json")
    next_state(watching)
    watching.send_signal(signal.SIGINT)
    assert ended(watching) == (130, b"")


def test_silence_of_all_nodes_is_a_time_out(ctl):
    silent = f"127.0.0.1:{free_port('127.0.0.1')}"
    bad(ctl("watch", "k", "--node", silent, "--timeout", "0.3"), 6, "no answer within 0.3 s")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_node_stops(tmp_path, how):
    node = DevNode(tmp_path / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    try:
        watching = Ctl(node.control).start("watch", "k", "--lease", "1", "--timeout", "0.5", "--json")
        next_state(watching)
        node.end(how)
        code, said = ended(watching)
    finally:
        node.close()
    complained(code, said, 6, "no answer")


def test_it_goes_on_through_another_node(tmp_path):
    port = free_port("127.0.0.1", "127.0.0.2")
    with_first = DevNode(tmp_path / "n1", f"127.0.0.1:{port}").wait_ready()
    other = DevNode(tmp_path / "n2", f"127.0.0.2:{port}", "--bootstrap", with_first.listen)
    try:
        other.wait_ready(contacts=1)
        arguments = ["--node", with_first.listen, "--node", other.listen]
        watching = Ctl(other.control).start("watch", "k", *arguments, "--lease", "1", "--json")
        next_state(watching)
        with_first.end(signal.SIGTERM)
        wait_until(lambda: other.call("status")["contacts"] == 0, "the other one to be alone")
        good(Ctl(other.control)("put", "k", "v"))
        assert next_state(watching)["value"] == "v"
        watching.send_signal(signal.SIGINT)
        assert ended(watching) == (130, b"")
    finally:
        with_first.close()
        other.close()
