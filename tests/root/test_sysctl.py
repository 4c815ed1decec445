"""The sysctls: what is set, that it is all put back, and that each of them is needed.

bridge --+-- node  eth0 10.22.0.1/24, fd22::1/64; lo 10.22.9.9, an anycast address
         +-- client eth0 10.22.0.2/24, fd22::2/64
         +-- next  eth0 10.22.0.3/24, fd22::3/64
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chain import IDS, request
from nfq import Node, udp

from kdht.datapath.host import sysctl
from kdht.datapath.host.settings import HostSettings
from kdht.datapath.host.sysctl import Sysctls
from kdht.errors import DatapathError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root


@pytest.fixture
def node(lab: Lab) -> Host:
    lab.host("client", ipv4="10.22.0.2/24", ipv6="fd22::2/64")
    lab.host("next", ipv4="10.22.0.3/24", ipv6="fd22::3/64")
    node = lab.host("node", ipv4="10.22.0.1/24", ipv6="fd22::1/64")
    node.add_address("lo", "10.22.9.9/32")
    return node


def values(host: Host) -> dict[str, str]:
    """All of the host's network sysctls."""
    lines = host.run(["sysctl", "-a"], check=False).stdout.splitlines()
    return dict(line.split(" = ", 1) for line in lines if line.startswith("net.") and " = " in line)


def changed(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in after.items() if before.get(name) != value}


FEWEST = {
    "net.ipv4.conf.eth0.forwarding": "1",
    "net.ipv4.conf.eth0.accept_local": "1",
    "net.ipv4.conf.eth0.send_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv6.conf.eth0.force_forwarding": "1",
}


def test_few_sysctls_are_set_and_all_are_put_back(node: Host, tmp_path: Path) -> None:
    before = values(node)
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        guard = sysctls.apply()
        assert changed(before, values(node)) == FEWEST
        assert (guard.forward4, guard.forward6, guard.martian4) == ({"eth0"}, {"eth0"}, {"eth0"})
        assert sysctls.undone() == []
        sysctls.restore()
        sysctls.restore()
    assert changed(before, values(node)) == {}
    assert list(tmp_path.iterdir()) == []


def test_where_all_is_set_already_nothing_is(node: Host, tmp_path: Path) -> None:
    for name, value in {**FEWEST, "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}.items():
        node.sysctl(name.replace(".", "/"), value)
    for name, value in FEWEST.items():
        node.sysctl(name.replace(".", "/"), value)
    before = values(node)
    with node.enter():
        guard = Sysctls(["eth0"], runtime_dir=tmp_path).apply()
    assert changed(before, values(node)) == {}
    assert not any(guard)


def test_strict_rp_filter_is_loosened_only_where_needed(node: Host, tmp_path: Path) -> None:
    node.sysctl("net/ipv4/conf/all/rp_filter", 1)
    with node.enter():
        plain = Sysctls(["eth0"], runtime_dir=tmp_path)
        assert not plain.apply().reverse4
        assert node.sysctl("net/ipv4/conf/eth0/rp_filter") == "0"
        plain.restore()
        loose = Sysctls(["eth0"], loose=["eth0"], runtime_dir=tmp_path)
        assert loose.apply().reverse4 == {"eth0"}
        assert node.sysctl("net/ipv4/conf/eth0/rp_filter") == "2"
        loose.restore()
    assert node.sysctl("net/ipv4/conf/eth0/rp_filter") == "0"


def test_without_force_forwarding_every_interface_is_restored(node: Host, tmp_path: Path) -> None:
    """Before Linux 6.17: one that was a router stays one, one that heeded advertisements does so throughout."""
    node.run(["ip", "link", "add", "leg0", "type", "veth", "peer", "leg1"])
    node.sysctl("net/ipv6/conf/leg0/forwarding", 1)
    node.sysctl("net/ipv6/conf/eth0/accept_ra", 1)
    before = values(node)
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path, force6=False)
    with node.enter():
        assert sysctls.apply().forward6_all
        now = values(node)
        assert now["net.ipv6.conf.all.forwarding"] == "1"
        assert now["net.ipv6.conf.eth0.accept_ra"] == "2"
        sysctls.restore()
    assert changed(before, values(node)) == {}


def test_a_crash_is_made_good_at_the_next_start(node: Host, tmp_path: Path) -> None:
    before = values(node)
    crash = (
        "import os, pathlib, sys\n"
        "from kdht.datapath.host.sysctl import Sysctls\n"
        "Sysctls(['eth0'], runtime_dir=pathlib.Path(sys.argv[1]), force6=False).apply()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    node.run([sys.executable, "-c", crash, str(tmp_path)], check=False, env=environment)
    assert changed(before, values(node))["net.ipv6.conf.all.forwarding"] == "1"
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        sysctls.apply()
        assert changed(before, values(node)) == FEWEST
        sysctls.restore()
    assert changed(before, values(node)) == {}


def test_the_last_of_two_nodes_puts_back(node: Host, tmp_path: Path) -> None:
    before = values(node)
    first, second = (Sysctls(["eth0"], runtime_dir=tmp_path) for _ in range(2))
    with node.enter():
        assert first.apply() == second.apply()
        first.restore()
        assert changed(before, values(node)) == FEWEST
        assert second.guard().forward4 == {"eth0"}
        second.restore()
    assert changed(before, values(node)) == {}


def test_a_sysctl_changed_by_others_is_not_restored(node: Host, tmp_path: Path) -> None:
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        sysctls.apply()
        node.sysctl("net/ipv4/conf/all/send_redirects", 1)
        assert sysctls.undone() == ["net.ipv4.conf.all.send_redirects"]
        sysctls.restore()
    assert node.sysctl("net/ipv4/conf/all/send_redirects") == "1"
    assert node.sysctl("net/ipv4/conf/eth0/accept_local") == "0"


def test_a_host_made_a_router_meanwhile_stays_one(node: Host, tmp_path: Path) -> None:
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        sysctls.apply()
        node.sysctl("net/ipv4/ip_forward", 1)
        assert sysctls.guard().forward4 == set()
        sysctls.restore()
    assert node.sysctl("net/ipv4/conf/eth0/forwarding") == "1"


def test_a_ledger_of_another_boot_is_not_applied(node: Host, tmp_path: Path) -> None:
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        sysctls.apply()
        path = next(tmp_path.glob("*.json"))
        ledger = json.loads(path.read_text())
        path.write_text(json.dumps({**ledger, "boot": "another"}))
        # The node that wrote it would know better: this is the first one after the boot.
        Sysctls(["eth0"], runtime_dir=tmp_path).restore()
    assert node.sysctl("net/ipv4/conf/eth0/forwarding") == "1"


# --- What cannot work -----------------------------------------------------------------


def test_no_such_interface(node: Host, tmp_path: Path) -> None:
    before = values(node)
    with node.enter(), pytest.raises(DatapathError, match="no interface nope0"):
        Sysctls(["eth0", "nope0"], runtime_dir=tmp_path).apply()
    assert changed(before, values(node)) == {}


def test_a_refused_write_undoes_the_others(node: Host, tmp_path: Path, monkeypatch) -> None:
    """The kernel refuses root no value of these, so one refusal is made up; the rest is real."""
    real = sysctl.write

    def write(path: str, value: str) -> None:
        if path.endswith("force_forwarding"):
            raise DatapathError("read-only file system")
        real(path, value)

    before = values(node)
    monkeypatch.setattr(sysctl, "write", write)
    with node.enter(), pytest.raises(DatapathError, match="read-only"):
        Sysctls(["eth0"], runtime_dir=tmp_path).apply()
    assert changed(before, values(node)) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_ledger_is_not_guessed_at(node: Host, tmp_path: Path) -> None:
    sysctls = Sysctls(["eth0"], runtime_dir=tmp_path)
    with node.enter():
        sysctls.apply()
        next(tmp_path.glob("*.json")).write_text('{"boot":')
        with pytest.raises(DatapathError, match=r"is damaged .*: set the sysctls .* then remove the file"):
            Sysctls(["eth0"], runtime_dir=tmp_path).apply()


def test_no_root(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; os.setgid(65534); os.setuid(65534)\n"
        "from kdht.datapath.host.sysctl import Sysctls\n"
        "from kdht.errors import DatapathError\n"
        "try: Sysctls(['lo'], runtime_dir=pathlib.Path(sys.argv[1])).apply()\n"
        "except DatapathError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", "import kdht.datapath.host.sysctl\n" + code, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    assert "cannot keep the sysctls' old values" in said.stdout


# --- Each of them is needed -------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        (4, "net/ipv4/conf/eth0/forwarding", 0),
        (4, "net/ipv4/conf/eth0/accept_local", 0),
        (6, "net/ipv6/conf/eth0/force_forwarding", 0),
    ],
)
def test_without_it_nothing_is_forwarded(
    lab: Lab, node: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: int, name: str, value: int
) -> None:
    # The node itself would put it right, perhaps before the request comes.
    monkeypatch.setattr(HostSettings, "watch", lambda self: None)
    monkeypatch.setattr(HostSettings, "unwatch", lambda self: None)
    monkeypatch.setattr(HostSettings, "look", lambda self: "")
    home, to = {4: ("10.22.0.1", "10.22.0.3"), 6: ("fd22::1", "fd22::3")}[family]
    one = Node(node, IDS[0], [home], tmp_path)
    other = Node(lab.hosts["next"], IDS[1], [to], tmp_path)
    one.knows(0, other, family)
    source = {4: "10.22.0.2", 6: "fd22::2"}[family]
    with one.running(), udp(lab.hosts["client"], source) as client, udp(other.host, to, PORT) as there:
        client.sendto(first := request(), (home, PORT))
        assert there.recvfrom(2048)[0][8:16] == first[8:16], "with it, it goes on"
        good = node.sysctl(name)
        node.sysctl(name, value)
        client.sendto(request(), (home, PORT))
        wait_until(lambda: one.count("batches") == 2, "its verdict")
        node.sysctl(name, good)
        client.sendto(last := request(), (home, PORT))
        assert there.recvfrom(2048)[0][8:16] == last[8:16], "without it, it does not"


@pytest.mark.parametrize("loose", [False, True])
def test_an_anycast_source_needs_a_loose_rp_filter(lab: Lab, node: Host, tmp_path: Path, loose: bool) -> None:
    """The entry node answers from the address asked: here one of lo, relayed in by eth0."""
    node.sysctl("net/ipv4/conf/all/rp_filter", 1)
    addresses = ["10.22.9.9", "10.22.0.1"]
    one = Node(node, IDS[0], addresses, tmp_path, interfaces=("eth0",))
    other = Node(lab.hosts["next"], IDS[1], ["10.22.0.3"], tmp_path)
    one.knows(0, other)
    lab.hosts["next"].run(["ip", "route", "add", "10.22.9.9", "via", "10.22.0.1"])
    with (
        one.running(),
        udp(lab.hosts["client"], "10.22.0.2") as client,
        udp(other.host, "10.22.0.3", PORT) as there,
    ):
        if not loose:
            node.sysctl("net/ipv4/conf/eth0/rp_filter", 1)
        client.sendto(request(), ("10.22.0.1", PORT))
        if loose:
            assert there.recvfrom(2048)[1] == ("10.22.9.9", PORT)
        else:
            there.settimeout(0.5)
            with pytest.raises(TimeoutError):
                there.recvfrom(2048)


def test_names_are_those_that_sysctl_takes(lab: Lab, tmp_path: Path) -> None:
    """Most VLANs have a dot in their names."""
    host = lab.host("vlan")
    host.run(["ip", "link", "add", "eth0.7", "type", "bridge"])
    with host.enter():
        named = Sysctls(["eth0.7"], runtime_dir=tmp_path).wrong()
    assert "net.ipv4.conf.eth0/7.forwarding" in named
    for name in named:
        host.run(["sysctl", "-n", name])
