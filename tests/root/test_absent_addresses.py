"""Addresses that are not here yet: a standby's, moved here later, and IPv6 addresses that are still tentative."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import KDHTCTL, KDHTD, run
from paths import ROOT

from kdht import Client
from kdht.datapath.host.local_addresses import tentative
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

STANDBY = {4: "10.41.0.9", 6: "fd41::9"}


def configured(home: Path, host: str, **settings: str) -> Path:
    path = home / "kdhtd.toml"
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    at = f"[{host}]" if ":" in host else host
    path.write_text(
        f'[node]\nlisten = ["{host}"]\ndata_dir = "{home}/data"\n{lines}[[key]]\nsecret = "sixteen bytes or more"\n'
        f'[access]\nwrites = "open"\n[control]\nsocket = "{home}/c.sock"\n[metrics]\nlisten = "{at}:9548"\n'
    )
    path.chmod(0o600)
    return path


@contextmanager
def daemon(host: Host, config: Path) -> Iterator[subprocess.Popen[str]]:
    with host.enter():
        process = subprocess.Popen(
            [*KDHTD, "--config", str(config)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def ready(home: Path) -> bool:
    return run([*KDHTCTL, "status", "--socket", home / "c.sock"]).returncode == 0


@pytest.mark.parametrize("family", [4, 6])
def test_a_standby_serves_as_soon_as_its_address_arrives(lab: Lab, tmp_path: Path, family: int) -> None:
    host, client = (
        lab.host("node", ipv4="10.41.0.1/24", ipv6="fd41::1/64"),
        lab.host("client", ipv4="10.41.0.2/24", ipv6="fd41::2/64"),
    )
    with daemon(host, configured(tmp_path, STANDBY[family], freebind="true")):
        wait_until(lambda: ready(tmp_path), "the node to be ready")
        host.run(["ip", "address", "add", f"{STANDBY[family]}/{24 if family == 4 else 64}", "dev", "eth0",
                  *(["nodad"] if family == 6 else [])])  # fmt: skip
        with client.enter(), Client(STANDBY[family], timeout=10) as asks:
            asks.put("k", b"v")
            assert asks.get("k") == b"v"


@pytest.mark.parametrize("family", [4, 6])
def test_without_that_setting_an_absent_address_is_one_line(lab: Lab, tmp_path: Path, family: int) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24", ipv6="fd41::1/64")
    config = configured(tmp_path, STANDBY[family])
    for more in ([], ["--check"]):
        with host.enter():
            done = run([*KDHTD, "--config", config, *more])
        assert done.returncode != 0
        assert "Traceback" not in done.stderr


def test_a_check_knows_of_absent_addresses(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    with host.enter():
        done = run([*KDHTD, "--check", "--config", configured(tmp_path, STANDBY[4], freebind="true")])
    assert done.returncode == 0, done.stderr


def test_a_tentative_address_is_waited_for(lab: Lab, tmp_path: Path) -> None:
    """Duplicate address detection takes a second or more; a node that starts with its host meets it."""
    host = lab.host("node", ipv4="10.41.0.1/24")
    host.sysctl("net/ipv6/conf/eth0/accept_dad", 1)
    host.sysctl("net/ipv6/conf/eth0/dad_transmits", 4)
    host.run(["ip", "address", "add", f"{STANDBY[6]}/64", "dev", "eth0"])
    with host.enter():
        assert tentative([STANDBY[6], "10.41.0.1"]) == [STANDBY[6]]
        with (
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
            pytest.raises(OSError, match="Cannot assign requested address"),
        ):
            sock.bind((STANDBY[6], 5348))
    began = time.monotonic()
    with daemon(host, configured(tmp_path, STANDBY[6])):
        wait_until(lambda: ready(tmp_path), "the node to be ready")
    assert time.monotonic() - began > 1
