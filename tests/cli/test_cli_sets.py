"""kdhtctl announce, withdraw, members, watch --set: what they print, and announcements while a check passes."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ctl import Ctl, bad, good
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


def shown(node: DevNode, name: str) -> list[bytes]:
    with Client(node.listen) as client:
        return sorted(member.payload for member in client.members(name))


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=30)
    return process.returncode, out.decode()


def test_announce_list_and_withdraw(ctl, node):
    assert b"announced in web, for 1 m" in good(
        ctl("announce", "web", "10.0.0.7:80", "--once", "--ttl", "1m")
    )
    (member,) = json.loads(good(ctl("members", "web", "--json")))["members"]
    assert (member["payload"], 0 < member["ttl"] <= 60) == ("10.0.0.7:80", True)
    listed = good(ctl("members", "web", "--quorum")).decode()
    assert "10.0.0.7:80" in listed
    assert "1 member of web" in listed
    assert good(ctl("withdraw", "web", "10.0.0.7:80")) == b"withdrawn from web\n"
    bad(ctl("withdraw", "web", "10.0.0.7:80"), 7, "there is no such member")


def test_a_soft_announcement_is_not_synced(ctl, node):
    def events() -> tuple[int, int]:
        stats = json.loads(good(ctl("stats", "--json")))
        return stats["replication"]["writes_soft"], stats["storage"]["syncs"]

    soft, syncs = events()
    good(ctl("announce", "soft", "10.0.0.7:80", "--once", "--soft"))
    assert events() == (soft + 1, syncs)
    good(ctl("announce", "soft", "10.0.0.7:80", "--once"))
    assert events() == (soft + 1, syncs + 1)
    assert shown(node, "soft") == [b"10.0.0.7:80"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_announces_until_it_is_stopped(ctl, node, number):
    announcing = ctl.start("announce", "living", "me", "--ttl", "3")
    wait_until(lambda: shown(node, "living") == [b"me"], "the announcement")
    announcing.send_signal(number)
    code, out = ended(announcing)
    assert code == (0 if number == signal.SIGTERM else 130)
    assert out.endswith("withdrawn from living\n")
    assert shown(node, "living") == []


def test_it_announces_while_a_command_succeeds(ctl, node, tmp_path: Path):
    healthy = tmp_path / "healthy"
    announcing = ctl.start(
        "announce", "checked", "me", "--exec", f"test -e {healthy}", "--every", "1", "--ttl", "30"
    )
    try:
        healthy.touch()
        wait_until(lambda: shown(node, "checked") == [b"me"], "the announcement")
        healthy.unlink()
        wait_until(lambda: shown(node, "checked") == [], "the withdrawal")
        healthy.touch()
        wait_until(lambda: shown(node, "checked") == [b"me"], "the next announcement")
    finally:
        announcing.send_signal(signal.SIGTERM)
    assert ended(announcing)[0] == 0


def test_it_announces_while_a_port_listens(ctl, node):
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    announcing = ctl.start("announce", "ports", "me", "--tcp", str(port), "--every", "1")
    try:
        wait_until(lambda: shown(node, "ports") == [b"me"], "the announcement")
        listening.close()
        wait_until(lambda: shown(node, "ports") == [], "the withdrawal")
    finally:
        announcing.send_signal(signal.SIGTERM)
    assert ended(announcing)[0] == 0


def test_a_check_that_hangs_is_a_failed_one(ctl, node):
    announcing = ctl.start("announce", "hanging", "me", "--exec", "sleep 60", "--every", "1")
    assert announcing.stderr is not None
    assert b"did not end within 1 s" in announcing.stderr.readline()
    announcing.send_signal(signal.SIGTERM)
    assert ended(announcing) == (0, "")
    assert shown(node, "hanging") == []


def test_watch_prints_who_comes_and_goes(ctl, node):
    watching = ctl.start("watch", "followed", "--set", "--count", "3", "--json")
    with closing(Client(node.listen)) as client:
        client.announce_once("followed", b"a", member="one")
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert (first["change"], first["member"]["payload"]) == ("joined", "a")
        client.announce_once("followed", b"b", member="one")
        assert json.loads(watching.stdout.readline())["change"] == "changed"
        client.withdraw("followed", member="one")
        last = json.loads(watching.stdout.readline())
        assert (last["change"], last["member"]["payload"]) == ("left", "b")
        assert last["member"]["id"] == first["member"]["id"]
    assert ended(watching) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("announce", "web", "x" * 257), "at most 256 bytes"),
        (("announce", "web", "x", "--ttl", "2d"), "at most 86400"),
        (("announce", "web", "x", "--tcp", "none"), "port"),
        (("announce", "web", "x", "--once", "--exec", "true"), "--once goes without"),
        (("withdraw", "web"), "either PAYLOAD or --member"),
        (("watch", "web", "--set", "--output", "f"), "without --output"),
    ],
)
def test_wrong_arguments_are_one_line(ctl, arguments, says):
    done = ctl(*arguments)
    assert done.returncode != 0
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
