"""Somebody removes the runtime directory, or empties it, while a node runs: the host stays closed, and as it was afterwards."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from chain import IDS
from nfq import Node
from test_ebpf_datapath import datapath

from kdht.datapath.host import settings
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

ADDRESS = "10.41.0.1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "TICK_S", 0.1)


def forwarding(host: Host) -> dict[str, str]:
    names = [
        "net/ipv4/conf/eth0/forwarding",
        "net/ipv4/conf/eth0/accept_local",
        "net/ipv4/conf/eth0/send_redirects",
        "net/ipv4/conf/all/send_redirects",
        "net/ipv6/conf/eth0/forwarding",
        "net/ipv6/conf/eth0/force_forwarding",
    ]
    return {name: host.sysctl(name) for name in names}


def guarded(host: Host, table: str) -> str:
    return host.run(["nft", "list", "set", "inet", table, "guarded4"]).stdout


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def emptied(directory: Path) -> None:
    for path in directory.glob("sysctl-*"):
        path.unlink()


def forged(directory: Path) -> None:
    """As if another boot had written it."""
    for path in directory.glob("sysctl-*"):
        path.write_text('{"boot":"another","entries":{},"holders":{}}')


@pytest.mark.parametrize("lose", [removed, emptied, forged], ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_the_host_stays_closed_and_is_as_before_afterwards(
    lab: Lab, tmp_path: Path, kind: str, lose: Callable[[Path], None]
) -> None:
    host = lab.host("node", ipv4=f"{ADDRESS}/24")
    before = forwarding(host)
    if kind == "nfqueue":
        node = Node(host, IDS[0], [ADDRESS], tmp_path)
        running, directory, table = node.running(), node.options.runtime_dir, "kdht"
    else:
        running, directory, table = datapath(host, tmp_path / "run", ADDRESS), tmp_path / "run", "kdht_guard"
    with running as path:
        assert '"eth0"' in guarded(host, table)
        lose(directory)
        wait_until(lambda: list(directory.glob("sysctl-*.json")), "the ledger to be written again")
        with host.enter():
            assert (node.datapath if kind == "nfqueue" else path).status()["state"] == "up"
        assert '"eth0"' in guarded(host, table)
    assert forwarding(host) == before
