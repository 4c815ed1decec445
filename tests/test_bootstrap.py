"""How a daemon finds others by name: it must never take a silent resolver for an empty cluster."""

import socket
from pathlib import Path

import pytest
from daemons import KDHTD, DevNode, free_port, run

from kdht.daemon import bootstrap
from kdht.daemon.config import build
from kdht.daemon.settings import Settings, resolve
from kdht.lab.wait import wait_until
from kdht.wire import Address


def settings(*names: str, listen: str = "10.0.0.1") -> Settings:
    return resolve(
        build(
            {"node": {"listen": [listen], "bootstrap": list(names)}, "key": [{"secret": "0123456789abcdef"}]}
        )
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["10.0.0.2", "10.0.0.3:99"], [("10.0.0.2", 5348), ("10.0.0.3", 99)]),
        (["10.0.0.1"], []),
        (["fd00::1"], []),
        (["10.0.0.2", "10.0.0.2:5348"], [("10.0.0.2", 5348)]),
        (["localhost"], [("127.0.0.1", 5348)]),
        ([], []),
    ],
    ids=["addresses", "itself", "another IP version", "twice", "a name", "none"],
)
def test_what_the_names_stand_for(names, found):
    addresses, unresolved = bootstrap.resolve_bootstrap(settings(*names))
    assert addresses == [Address.of(*each) for each in found]
    assert unresolved == []


@pytest.mark.parametrize("name", ["nosuch.invalid", "x" * 64 + ".example", "a..b"])
def test_a_name_without_an_address(name):
    addresses, unresolved = bootstrap.resolve_bootstrap(settings(name, "10.0.0.2"))
    assert addresses == [Address.of("10.0.0.2", 5348)]
    assert unresolved == [name]


def test_a_node_whose_names_are_unknown_waits(tmp_path: Path):
    """It is up and answers, has not joined, and ends cleanly."""
    node = DevNode(tmp_path / "n", f"127.0.0.1:{free_port('127.0.0.1')}", "--bootstrap", "nosuch.invalid")
    try:
        wait_until(node.control.exists, "the control socket")
        wait_until(lambda: node.call("status")["state"] == "running", "the daemon")
        assert node.call("status")["joined"] is False
        code, said = node.end()
    finally:
        node.close()
    assert code == 0, said


FAILS_TO_JOIN = """
from kdht.daemon import bootstrap
from kdht.daemon.main import main
def fail(_): raise LookupError("unknown encoding: idna")
bootstrap.resolve_bootstrap = fail
main()
"""


def test_a_node_that_cannot_even_try_to_join_ends(tmp_path: Path):
    """A bug must not leave a node that answers and never joins."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    done = run([*KDHTD[:1], "-c", FAILS_TO_JOIN, "--dev", "--listen", address, "--data-dir", tmp_path / "n"])
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("LookupError: unknown encoding: idna")
    assert not (tmp_path / "n/control.sock").exists()


class FakeDriver:
    """What was asked of the node."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list]] = []

    def restore(self, contacts):
        self.calls.append(("restore", list(contacts)))

    def join(self, addresses):
        self.calls.append(("join", list(addresses)))


def run_join(monkeypatch, saved, *answers):
    """Join with a resolver that fails until the last of `answers`; what the node was told."""
    import asyncio

    left = list(answers)

    def getaddrinfo(host, port, type):
        address = left.pop(0)
        if address is None:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return [(socket.AF_INET, type, 17, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(bootstrap, "FIRST_RETRY", 0.0)
    driver = FakeDriver()
    asyncio.run(bootstrap._join(settings("node.example"), driver, saved))
    assert left == []
    return driver.calls


HERE = Address.of("10.0.0.2", 5348)


def test_it_asks_again_until_a_name_is_known(monkeypatch):
    assert run_join(monkeypatch, [], None, None, "10.0.0.2") == [("restore", []), ("join", [HERE])]


def test_former_contacts_need_no_names(monkeypatch):
    saved = ["a contact"]
    calls = run_join(monkeypatch, saved, None, "10.0.0.2")
    assert calls == [("restore", saved), ("join", []), ("join", [HERE])]


def test_a_known_name_is_asked_for_once(monkeypatch):
    assert run_join(monkeypatch, [], "10.0.0.2") == [("restore", []), ("join", [HERE])]
