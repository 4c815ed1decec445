"""kdhtd with the nfqueue datapath in a namespace: what it changes, and that it puts it back.

n1 --+-- br0 --+-- n2
"""

import json
import os
import signal
from pathlib import Path
from shutil import which

import pytest
from daemons import KDHTCTL, KDHTD
from paths import ROOT

from kdht.datapath.host.ruleset import probe_queue
from kdht.errors import NoDaemon
from kdht.lab.netns import Host
from kdht.lab.wait import wait_until
from kdht.program import control_client

pytestmark = pytest.mark.root

SECRET = "a secret of the test's own"


def config(
    home: Path, listen: list[str], *, bootstrap: list[str] = (), node: str = "", datapath: str = ""
) -> Path:  # type: ignore[assignment]
    home.mkdir(exist_ok=True)
    path = home / "kdhtd.toml"
    path.write_text(
        f"[node]\nlisten = {json.dumps(listen)}\nbootstrap = {json.dumps(list(bootstrap))}\n"
        f'data_dir = "{home}/data"\n{node}\n[access]\nwrites = "open"\n[[key]]\nsecret = "{SECRET}"\n'
        f'[control]\nsocket = "{home}/control.sock"\n[datapath]\nkind = "nfqueue"\n{datapath}\n'
    )
    return path


class Started:
    """A daemon on a host of the lab."""

    def __init__(self, host: Host, home: Path, **fields: object) -> None:
        self.control = home / "control.sock"
        self.log = home / "log"
        self.path = config(home, **fields)  # type: ignore[arg-type]
        self._host = host
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = self._host.popen([*KDHTD, "--config", str(self.path)], stderr=log, cwd=ROOT)

    def ready(self, contacts: int = 0) -> "Started":
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                status = control_client.call(self.control, "status")
            except NoDaemon:
                return False
            return status["ready"] and status["contacts"] >= contacts

        wait_until(is_ready, "the daemon")
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def complaints(said: str) -> list[str]:
    """The lines but for `--check`'s warnings of open writes and a readable secret."""
    return [line for line in said.splitlines() if not line.startswith("warning: ")]


def state(host: Host) -> dict[str, str]:
    """All that a daemon may change on a host."""
    return {
        "nft": host.run(["nft", "list", "ruleset"]).stdout,
        "sockets": host.run(["ss", "-Hlun"]).stdout,
        "queues": host.run(["cat", "/proc/self/net/netfilter/nfnetlink_queue"]).stdout,
        "sysctls": "".join(
            line
            for line in host.run(
                ["sysctl", "-a", "--pattern", r"^net\.ipv[46]\."], check=False
            ).stdout.splitlines(True)
            if not line.startswith(("net.ipv4.tcp_fastopen_key", "net.ipv6.conf.default.stable"))
        ),
    }


@pytest.fixture
def host(lab) -> Host:
    return lab.host("n1", ipv4="10.77.0.1/24", ipv6="fd77::1/64")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_clean_end_all_is_as_found(host, tmp_path, number):
    before = state(host)
    node = Started(host, tmp_path / "n1", listen=["10.77.0.1", "fd77::1"]).ready()
    during = state(host)
    assert all(during[what] != before[what] for what in before), (
        "the daemon did not do what this test is about"
    )
    assert node.end(number) == 0
    assert state(host) == before


def test_a_killed_daemons_leftovers_are_replaced_then_removed(host, tmp_path):
    before = state(host)
    node = Started(host, tmp_path / "n1", listen=["10.77.0.1"]).ready()
    node.end(signal.SIGKILL)
    assert "table inet kdht" in state(host)["nft"]
    node.start()
    node.ready()
    assert node.end() == 0
    assert state(host) == before


def test_kdhtctl_stop_returns_when_all_is_as_found(host, tmp_path):
    before = state(host)
    node = Started(host, tmp_path / "n1", listen=["10.77.0.1"]).ready()
    host.run([*KDHTCTL, "stop", "--socket", str(node.control)], cwd=ROOT)
    after = state(host)
    assert after == before
    assert node.process.wait(30) == 0


def test_kdhtctl_status_says_how_packets_are_diverted(host, tmp_path):
    node = Started(host, tmp_path / "n1", listen=["10.77.0.1"]).ready()
    said = host.run([*KDHTCTL, "status", "--socket", str(node.control)], cwd=ROOT).stdout
    with host.enter():
        way = probe_queue()
    assert f"nfqueue datapath: up, {way} queue rule on eth0" in said
    assert node.end() == 0


def test_check_changes_nothing(host, tmp_path):
    before = state(host)
    path = config(tmp_path / "n1", ["10.77.0.1"])
    said = host.run([*KDHTD, "--check", "--config", str(path)], cwd=ROOT).stdout
    assert "diverts packets from eth0 to queue 5348" in said
    assert state(host) == before
    assert os.listdir(tmp_path / "n1") == ["kdhtd.toml"]


WITHOUT_NFT = ["unshare", "--mount", "sh", "-c",
               f'mount --bind /dev/null {which("nft", path="/usr/sbin:/sbin")} && PATH=/nonexistent exec "$@"', "sh"]  # fmt: skip
"""A program behind this finds no nft: its place has nothing that can be executed."""


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_without_nft(host, tmp_path, check):
    before = state(host)
    path = config(tmp_path / "n1", ["10.77.0.1"])
    done = host.run(
        [*WITHOUT_NFT, *KDHTD, "--config", str(path), *check],
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 4
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert "cannot find nft: install nftables" in done.stderr
    assert state(host) == before


NO_NFQUEUE = """
import sys
from kdht.daemon.main import main
from kdht.datapath.host import netlink
from kdht.errors import DatapathError
def refuse(*_): raise DatapathError("the kernel refused the rule")
netlink.add_queue_rule = refuse
main()
"""
"""kdhtd on a kernel that has NFQUEUE as an xtables target, as if it had not."""


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_without_nfqueue_in_the_kernel(host, tmp_path, check):
    """The kernel here cannot be without: nft and netlink say what they would say on one that is."""
    nft = tmp_path / "bin/nft"
    nft.parent.mkdir()
    nft.write_text(
        f"""#!/bin/sh
        script=$(cat)
        case "$script" in *"queue num"*) echo "Error: Could not process rule: No such file" >&2; exit 1;; esac
        printf '%s' "$script" | {which("nft")} "$@"
        """
    )
    nft.chmod(0o755)
    before = state(host)
    path = config(tmp_path / "n1", ["10.77.0.1"])
    done = host.run(
        [*KDHTD[:1], "-c", NO_NFQUEUE, "--config", str(path), *check],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{nft.parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 4
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert "this kernel has no NFQUEUE" in done.stderr
    assert "choose the socket datapath" in done.stderr
    assert state(host) == before


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_without_the_package_that_opens_queues(host, tmp_path, check):
    (tmp_path / "netfilterqueue.py").write_text("raise ImportError('no such package')")
    path = config(tmp_path / "n1", ["10.77.0.1"])
    done = host.run(
        [*KDHTD, "--config", str(path), *check],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 4
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert "pip install NetfilterQueue" in done.stderr


def test_auto_without_nft_leaves_it_to_the_socket(host, tmp_path):
    home = tmp_path / "n1"
    path = config(home, ["10.77.0.1"])
    path.write_text(path.read_text().replace('kind = "nfqueue"', 'kind = "auto"'))
    process = host.popen(
        [*WITHOUT_NFT, *KDHTD, "--config", str(path)],
        cwd=ROOT,
        stderr=(home / "log").open("w"),
    )

    def running() -> bool:
        try:
            return control_client.call(home / "control.sock", "status")["state"] == "running"
        except NoDaemon:
            return False

    wait_until(running, "the daemon")
    assert [path["name"] for path in control_client.call(home / "control.sock", "status")["datapaths"]] == [
        "socket"
    ]
    process.terminate()
    assert process.wait(30) == 0
    assert "the socket treats all packets" in (home / "log").read_text()


def test_an_interface_that_is_not_there(host, tmp_path):
    before = state(host)
    path = config(tmp_path / "n1", ["10.77.0.1"], datapath='interfaces = ["eth7"]')
    done = host.run([*KDHTD, "--config", str(path)], check=False, cwd=ROOT)
    assert done.returncode == 4
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert "eth7" in done.stderr
    assert state(host) == before


GET_AND_PUT = """
import sys
from kdht import Client
with Client(sys.argv[1]) as client:
    for n in range(60):
        client.put(f"k{n}", bytes([n]) * 900)
    for n in range(60):
        assert client.get(f"k{n}") == bytes([n]) * 900
"""


@pytest.mark.parametrize(
    ("address", "listen", "extra"),
    [
        ("10.77.0.{}", ["10.77.0.{}"], ""),
        ("[fd77::{}]", ["fd77::{}"], ""),
        ("10.77.0.{}", ["0.0.0.0"], 'advertise = ["10.77.0.{}"]'),
        ("10.77.9.9", ["10.77.0.{}"], 'anycast = ["10.77.9.9"]'),
    ],
    ids=["ipv4", "ipv6", "wildcard", "anycast"],
)
def test_two_nodes_serve_a_client(lab, tmp_path, address, listen, extra):
    nodes = []
    for number in (1, 2):
        host = lab.host(f"n{number}", ipv4=f"10.77.0.{number}/24", ipv6=f"fd77::{number}/64")
        if "anycast" in extra:
            host.run(["ip", "address", "add", "10.77.9.9/32", "dev", "lo"])
        other = address.format(1) if "anycast" not in extra else "10.77.0.1"
        nodes.append(
            Started(
                host,
                tmp_path / f"n{number}",
                listen=[each.format(number) for each in listen],
                bootstrap=[other] if number > 1 else [],
                node=extra.format(number),
            )
        )
        nodes[0].ready()
    for node in nodes:
        node.ready(contacts=1)
    client = lab.host("client", ipv4="10.77.0.99/24", ipv6="fd77::99/64")
    if "anycast" in extra:
        client.run(["ip", "route", "add", "10.77.9.9/32", "via", "10.77.0.2"])
    client.run([*KDHTCTL[:1], "-c", GET_AND_PUT, address.format(2)], cwd=ROOT)
    packets = [control_client.call(node.control, "stats")["packets"]["nfqueue"] for node in nodes]
    assert packets[1]["ENTERED"] > 0, "nothing was re-addressed in the packet path"
    assert packets[1]["RELAYED"] > 0 or "anycast" in extra
    for node in nodes:
        assert node.end() == 0
