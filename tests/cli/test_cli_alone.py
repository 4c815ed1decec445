"""A node that serves nothing says why, and what to do: the last of several, and one that nobody answers."""

import json
import os
import signal
from pathlib import Path

import pytest
from ctl import Ctl, bad, good
from daemons import DevNode, free_port

from kdht.lab.wait import wait_until

HOSTS = ("127.0.0.1", "127.0.0.2")
CONFIG = """
[node]
listen = ["{listen}"]
data_dir = "{home}"
bootstrap = {bootstrap}
[control]
socket = "{home}/control.sock"
[datapath]
kind = "socket"
[access]
writes = "open"
[[key]]
secret = "{secret}"
"""


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path):
    port = free_port(*HOSTS)

    def start(host: str, *bootstrap: str, secret: str = "a secret of many bytes") -> DevNode:
        home = tmp_path / host
        home.mkdir()
        listen = f"{host}:{port}"
        names = json.dumps([f"{name}:{port}" for name in bootstrap])
        config = home / "kdhtd.toml"
        config.write_text(CONFIG.format(listen=listen, home=home, bootstrap=names, secret=secret))
        os.chmod(config, 0o600)
        node = DevNode(home, listen, config=config)
        request.addfinalizer(node.close)
        return node

    return start


def findings(ctl: Ctl, node: DevNode) -> list[str]:
    """What doctor does not find well."""
    done = ctl("doctor", "--config", node.home / "kdhtd.toml", "--json")
    return [
        f"{each['what']}; {each['mend']}"
        for each in json.loads(done.stdout)["findings"]
        if each["state"] == "failure"
    ]


def test_the_last_of_two_nodes_names_the_other(started):
    first = started(HOSTS[0]).wait_ready()
    other = started(HOSTS[1], HOSTS[0]).wait_ready(contacts=1)
    first.wait_ready(contacts=1)
    ctl = Ctl(first.control)
    good(ctl("put", "k", "v"))
    id = other.call("status")["node_id"]
    other.end(signal.SIGKILL)
    wait_until(lambda: "replicas" in first.call("status")["waiting_for"], "the node to miss the other")
    status = ctl("status")
    assert status.returncode == 12
    for words in (
        "not ready, no writes",
        "no other node lives",
        f"{id} at {other.listen}, silent for",
        "kdhtctl forget",
    ):
        assert words in status.stdout.decode()
    missing = (id, other.listen, "silent for", "kdhtctl forget")
    bad(ctl("get", "absent", "--timeout", "1"), 9, "too few replicas answered to be sure", *missing)
    # What it has, it gives.
    assert good(ctl("get", "k")) == b"v"
    # BUSY while it looks for the others, then TOO_FEW.
    done = ctl("put", "k", "w", "--timeout", "1")
    bad(done, done.returncode, *missing)
    assert done.returncode in (6, 9)
    assert any("no other node lives" in each and id in each for each in findings(ctl, first))
    good(ctl("forget", id))
    wait_until(lambda: "replicas" not in first.call("status")["waiting_for"], "the node to miss nobody")


def test_a_node_with_another_secret_says_whom_it_asked(started):
    first = started(HOSTS[0]).wait_ready()
    other = started(HOSTS[1], HOSTS[0], secret="another secret of many bytes")
    wait_until(lambda: other.serves() and other.call("status")["asked"], "the node to ask")
    ctl = Ctl(other.control)
    shown = ctl("status").stdout.decode()
    assert "not ready" in shown
    assert f"no answer from {first.listen}: another secret, a firewall?" in shown
    assert any(f"no answer from {first.listen}" in each for each in findings(ctl, other))
    wait_until(lambda: first.call("stats")["strangers"], "the first node to hear it")
    done = Ctl(first.control)("doctor", "--config", first.home / "kdhtd.toml", "--quiet")
    assert f"BAD_TAG, the last from {other.listen}" in done.stdout.decode()
