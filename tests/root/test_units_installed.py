"""The installed units under a real systemd: what the sandbox leaves is enough, and a daemon that hangs is replaced.

n1   a machine with systemd as its process 1 (tests/helpers/machines.py)
"""

from collections.abc import Iterator

import pytest
from installed import copy_sources, make_wheels
from machines import Machine

from kdht.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = "/usr/local/share/doc/kdht/examples"
READY = """until kdhtctl status --json | grep -q '"ready": true'; do sleep 0.1; done"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With kdht installed, a secret, and the first node's configuration."""
    directory = tmp_path_factory.mktemp("units")
    sources, wheels = copy_sources(directory / "kdht"), make_wheels(directory / "wheels")
    with Lab("t-units") as lab:
        host = lab.host("n1", ipv4="10.0.0.1/24")
        lab.let_xdp_send()
        with Machine(host, {sources: "/usr/src/kdht"}, wheels, directory / "log") as machine:
            machine.run("cd /usr/src/kdht; make install", timeout=600)
            machine.run(
                f"mkdir /etc/kdht; kdhtctl key new /etc/kdht/secret; kdhtctl key new /etc/kdht/access-secret; cp {EXAMPLES}/first.toml /etc/kdht/kdhtd.toml"
            )
            yield machine


@pytest.fixture(autouse=True)
def _nothing_stays(machine: Machine) -> Iterator[None]:
    """A test that failed leaves the next ones no daemon and no changed unit."""
    yield
    machine.run("""
        systemctl stop 'kdhtd*'
        systemctl reset-failed
        rm -rf /run/systemd/system/kdhtd.service.d
        systemctl daemon-reload
    """)


def said(machine: Machine, script: str) -> str:
    return machine.run(script).stdout.strip()


def mask(*numbers: int) -> str:
    return f"{sum(1 << number for number in numbers):016x}"


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_root_in_its_sandbox_runs_the_packet_path(machine: Machine, kind: str) -> None:
    begun = said(machine, "date +%s")
    machine.run("systemctl start kdhtd")
    machine.run(READY)
    machine.run(f"kdhtctl datapath {kind}")
    assert f"{kind} datapath: up" in said(machine, "kdhtctl datapath")
    machine.run("export KDHT_TOKEN=$(kdhtctl token new); kdhtctl put key value; kdhtctl get key")
    status = said(machine, "cat /proc/$(systemctl show --property MainPID --value kdhtd)/status")
    for line in (f"CapBnd:\t{mask(12, 38, 39)}", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    machine.run("systemctl reload kdhtd; systemctl stop kdhtd")
    assert said(machine, "nft list tables; ls -d /sys/fs/bpf/kdht-* 2>/dev/null || true") == ""
    assert said(machine, "systemctl show --property Result --value kdhtd") == "success"
    told = said(machine, f"journalctl --unit kdhtd --since @{begun}")
    assert "Stopped" in told
    # systemd says so of each process that it has to kill.
    assert "SIGKILL" not in told, told


def test_the_socket_node_has_no_rights(machine: Machine) -> None:
    machine.run("chgrp kdht /etc/kdht/*secret; chmod 640 /etc/kdht/*secret; systemctl start kdhtd-socket")
    machine.run(READY)
    status = said(machine, "cat /proc/$(systemctl show --property MainPID --value kdhtd-socket)/status")
    assert f"CapPrm:\t{mask()}" in status
    assert "Uid:\t0" not in status
    machine.run("export KDHT_TOKEN=$(kdhtctl token new); kdhtctl put other value; kdhtctl get other")
    machine.run("systemctl stop kdhtd-socket; chmod 600 /etc/kdht/*secret")


def test_two_nodes_of_one_host_by_the_template(machine: Machine) -> None:
    machine.run(f"""
        cp {EXAMPLES}/first.toml /etc/kdht/a.toml
        sed 's/10.0.0.1"/10.0.0.1:5349"/' {EXAMPLES}/first.toml >/etc/kdht/b.toml
        printf 'bootstrap = ["10.0.0.1:5348"]\\n' >>/tmp/more
        sed -i '/^listen/r /tmp/more' /etc/kdht/b.toml
        printf '[datapath]\\ntable = "kdht_b"\\nfirst_queue = 6000\\n' >>/etc/kdht/b.toml
        systemctl start kdhtd@a kdhtd@b
    """)
    for name in "ab":
        machine.run(READY.replace("status", f"status --socket /run/kdht/{name}.sock"))
    assert '"contacts": 1' in said(machine, "kdhtctl status --json --socket /run/kdht/b.sock")
    machine.run("systemctl stop kdhtd@b")
    # 12: alone now, it is not ready. But its socket is still there.
    machine.run("kdhtctl status --socket /run/kdht/a.sock || (($? == 12)); systemctl stop kdhtd@a")


def test_a_hung_daemon_is_replaced(machine: Machine) -> None:
    machine.run("""
        mkdir -p /run/systemd/system/kdhtd.service.d
        printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/kdhtd.service.d/soon.conf
        systemctl daemon-reload
        systemctl start kdhtd
        export KDHT_TOKEN=$(kdhtctl token new)
        until kdhtctl put kept value; do sleep 0.1; done
        kill -STOP "$(systemctl show --property MainPID --value kdhtd)"
        until (($(systemctl show --property NRestarts --value kdhtd) >= 1)); do sleep 0.1; done
    """)
    machine.run(READY)
    assert "Watchdog timeout" in said(machine, "journalctl --unit kdhtd")
    machine.run("kdhtctl get kept; systemctl stop kdhtd")


def test_a_bad_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.run("echo nonsense >/etc/kdht/bad.toml")
    assert machine.run("systemctl start kdhtd@bad", check=False).returncode != 0
    assert said(machine, "systemctl show --property ActiveState,NRestarts --value kdhtd@bad").split() == [
        "0",
        "failed",
    ]
    assert "not valid TOML" in said(machine, "journalctl --unit kdhtd@bad --lines 5")
