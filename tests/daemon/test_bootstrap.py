"""How a daemon finds others by name: it must never take a silent resolver for an empty cluster."""

import asyncio
import socket
from pathlib import Path

import pytest
from daemons import KDHTD, DevNode, free_port, run

from kdht.config.reading import build
from kdht.config.settings import Settings, resolve
from kdht.daemon import bootstrap, check
from kdht.errors import ConfigError
from kdht.lab.wait import wait_until
from kdht.wire import Address


def settings(*names: str, listen: str = "10.0.0.1") -> Settings:
    return resolve(
        build(
            {
                "node": {"listen": [listen], "bootstrap": list(names)},
                "key": [{"secret": "0123456789abcdef"}],
                "access": {"writes": "open"},
            }
        )
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["10.0.0.2", "10.0.0.3:99"], [("10.0.0.2", 5348), ("10.0.0.3", 99)]),
        (["10.0.0.1"], []),
        (["fd00::1", "10.0.0.3"], [("10.0.0.3", 5348)]),
        (["10.0.0.2", "10.0.0.2:5348"], [("10.0.0.2", 5348)]),
        (["localhost"], [("127.0.0.1", 5348)]),
        ([], []),
    ],
    ids=[
        "addresses",
        "itself",
        "both IP versions",
        "twice",
        "a name",
        "none",
    ],
)
def test_bootstrap_names_resolve_to_addresses(names, found):
    got = bootstrap.resolve_bootstrap(settings(*names))
    assert got == ([Address.of(*each) for each in found], [], [name for name in names if name == "fd00::1"])
    assert not got.must_wait


@pytest.mark.parametrize("name", ["nosuch.invalid", "x" * 64 + ".example", "a..b"])
def test_a_name_without_an_address(name):
    got = bootstrap.resolve_bootstrap(settings(name, "10.0.0.2"))
    assert got == ([Address.of("10.0.0.2", 5348)], [name], [])
    assert not got.must_wait


ONLY_6 = "only IPv6 addresses, and this node has none: give it an IPv6 address in node.listen"
ONLY_4 = "only IPv4 addresses, and this node has none: give it an IPv4 address in node.listen"


@pytest.mark.parametrize(
    ("listen", "names", "words"),
    [
        ("10.0.0.1", ["fd00::1", "[fd00::2]:99"], ONLY_6),
        ("fd00::1", ["10.0.0.1"], ONLY_4),
        ("10.0.0.1", ["fd00::1", "10.0.0.1"], ONLY_6),
    ],
)
def test_addresses_of_the_other_version_alone_are_refused(listen, names, words):
    with pytest.raises(ConfigError, match=words) as refused:
        settings(*names, listen=listen)
    assert all(name in str(refused.value) for name in names)


def test_kdhtd_refuses_them_at_the_start_and_in_a_check(tmp_path: Path):
    for arguments in ([], ["--check"]):
        done = run(
            [*KDHTD, "--dev", "--listen", f"127.0.0.1:{free_port('127.0.0.1')}", "--data-dir", tmp_path / "n",
             "--bootstrap", "[fd00::1]:5348", *arguments]
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("kdhtd: node.bootstrap is [fd00::1]:5348: only IPv6 addresses")
    assert not (tmp_path / "n/records").exists()


def test_a_name_without_an_address_of_our_ip_version_is_refused(monkeypatch):
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET6, 2, 17, "", ("fd00::9", 5348, 0, 0))]
    )
    found = bootstrap.resolve_bootstrap(settings("six.example"))
    assert found == ([], [], ["six.example"])
    with pytest.raises(ConfigError, match=ONLY_6):
        list(check._bootstrap(settings("six.example")))


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

        self.known: list = []
        self.aside = False

    def contacts(self):
        return self.known

    def restore(self, contacts):
        self.calls.append(("restore", list(contacts)))

    def join(self, addresses):
        self.calls.append(("join", list(addresses)))


def run_join(monkeypatch, saved, *answers):
    """Join with a resolver that fails until the last of `answers`; what the node was told."""

    left = list(answers)

    def getaddrinfo(host, port, type):
        address = left.pop(0)
        if address is None:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, type, 17, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(bootstrap, "FIRST_RETRY", 0.0)
    driver = FakeDriver()
    asyncio.run(bootstrap._join(settings("node.example"), driver, saved))
    assert left == []
    return driver.calls


HERE = Address.of("10.0.0.2", 5348)


def test_it_asks_again_until_a_name_is_known(monkeypatch):
    assert run_join(monkeypatch, [], None, None, "10.0.0.2") == [("restore", []), ("join", [HERE])]


def test_a_bootstrap_name_without_a_usable_address_is_retried(monkeypatch, caplog):
    """It must not be taken for an empty cluster."""
    assert run_join(monkeypatch, [], "fd00::9", "10.0.0.2") == [("restore", []), ("join", [HERE])]
    assert ONLY_6 in caplog.records[0].why


def test_former_contacts_need_no_names(monkeypatch):
    saved = ["a contact"]
    calls = run_join(monkeypatch, saved, None, "10.0.0.2")
    assert calls == [("restore", saved), ("join", []), ("join", [HERE])]


def test_a_known_name_is_asked_for_once(monkeypatch):
    assert run_join(monkeypatch, [], "10.0.0.2") == [("restore", []), ("join", [HERE])]


def test_a_system_without_a_free_thread_ends_no_join(monkeypatch):
    """Python raises RuntimeError then, which is no OSError."""
    real, refused = bootstrap.threading.Thread.start, [RuntimeError("can't start new thread")] * 2

    def start(thread):
        if thread.name == "kdht-resolver" and refused:
            raise refused.pop()
        real(thread)

    monkeypatch.setattr(bootstrap.threading.Thread, "start", start)
    monkeypatch.setattr(bootstrap, "FIRST_RETRY", 0.01)
    assert asyncio.run(bootstrap.in_thread(lambda: "found")) == "found"
    assert not refused


class EnoughSeen(Exception):
    """The resolver was asked for the last time of a test."""


def stay(monkeypatch, driver: FakeDriver, *answers: list[str]) -> None:
    """The node knows the addresses of the first answer, and nobody there; the resolver has the others."""

    left = list(answers)

    def getaddrinfo(host, port, type):
        if not left:
            raise EnoughSeen
        return [(socket.AF_INET, type, 17, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(bootstrap, "ALONE_SECONDS", 0.0)
    found = bootstrap.resolve_bootstrap(settings("node.example"))
    with pytest.raises(EnoughSeen):
        asyncio.run(bootstrap._stay(settings("node.example"), driver, found))


def test_a_node_that_knows_nobody_resolves_its_names_again(monkeypatch, caplog):
    driver = FakeDriver()
    stay(monkeypatch, driver, ["10.0.0.2"], ["10.0.0.2"], ["10.0.0.3", "10.0.0.4"])
    others = [Address.of(host, 5348) for host in ("10.0.0.3", "10.0.0.4")]
    assert driver.calls == [("join", others)], "the same address is not asked anew, all others are"
    assert caplog.records[0].getMessage() == "no other node answers: another secret, a firewall?"
    assert (caplog.records[0].names, caplog.records[0].addresses) == ("node.example", "10.0.0.2:5348")


def test_a_node_with_contacts_asks_no_resolver(monkeypatch):

    driver = FakeDriver()
    driver.known = ["a contact"]
    monkeypatch.setattr(bootstrap, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(bootstrap, "resolve_bootstrap", None)
    nobody = bootstrap.BootstrapAddresses([], [], [])

    async def some_time():
        await asyncio.wait_for(bootstrap._stay(settings("node.example"), driver, nobody), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(some_time())
