"""A node that is told to end: first it is not ready, then it serves no more. And its exit status for scripts."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import KDHTCTL, DevNode, free_port, run
from pages import ask

from kdht import Client
from kdht.lab.wait import wait_until

HOST = "127.60.3.1"
PORT = 9549


def configured(home: Path, lame_duck: float) -> DevNode:
    listen = f"{HOST}:{free_port(HOST)}"
    path = home / "kdhtd.toml"
    path.write_text(
        f'[node]\nlisten = ["{listen}"]\ndata_dir = "{home}/data"\nlame_duck = {lame_duck}\n'
        f'[[key]]\nsecret = "sixteen bytes or more"\n[control]\nsocket = "{home}/control.sock"\n'
        f'[metrics]\nlisten = "{HOST}:{PORT}"\n'
    )
    path.chmod(0o600)
    return DevNode(home, listen, config=path).wait_ready()


LAME_S = 60
"""Longer than a busy machine takes for anything below: whoever waits for it is seen."""
AT_ONCE_S = 40


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DevNode]:
    node = configured(tmp_path, LAME_S)
    yield node
    node.close()


def status(node: DevNode) -> int:
    return run([*KDHTCTL, "status", "--socket", node.control]).returncode


def readyz(query: str = "") -> int:
    return ask(f"http://{HOST}:{PORT}/readyz{query}").status


def test_sigterm_first_fails_readiness_and_the_node_serves_on(node: DevNode) -> None:
    """Its end is that of the next test."""
    assert (readyz(), readyz("?writes"), status(node)) == (200, 200, 0)
    with Client(node.listen) as client:
        client.put("k", b"before")
        node.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readyz() == 503, "readiness to fail")
        assert (readyz("?writes"), status(node)) == (503, 12)
        assert ask(f"http://{HOST}:{PORT}/healthz").status == 200
        client.put("k", b"while it goes")
        assert client.get("k") == b"while it goes"


def test_after_that_time_it_ends(tmp_path: Path) -> None:
    node = configured(tmp_path, 1)
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(AT_ONCE_S) == 0
    node.close()


def test_a_second_sigterm_ends_it_at_once(node: DevNode) -> None:
    node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: readyz() == 503, "readiness to fail")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(AT_ONCE_S) == 0


@pytest.mark.parametrize("how", ["interrupt", "stop"])
def test_other_ends_do_not_wait(node: DevNode, how: str) -> None:
    if how == "interrupt":
        node.process.send_signal(signal.SIGINT)
    else:
        assert run([*KDHTCTL, "stop", "--socket", node.control]).returncode == 0
    assert node.process.wait(AT_ONCE_S) == 0


def test_without_that_setting_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    node = configured(tmp_path, 0)
    began = time.monotonic()
    assert node.end()[0] == 0
    assert time.monotonic() - began < 3


def test_a_node_that_waits_for_others_has_a_status_of_its_own(tmp_path: Path) -> None:
    node = DevNode(tmp_path, f"{HOST}:{free_port(HOST)}", "--bootstrap", "127.60.3.99:1")
    try:
        wait_until(lambda: status(node) != 5, "the node to answer")
        assert status(node) == 12
    finally:
        node.end()
    assert status(node) == 5
