"""The networks that the XDP program takes frames from: interfaces, VLANs, and the ports of bonds."""

from pathlib import Path

import pytest

from kdht.datapath.ebpf import networks
from kdht.datapath.host.netlink import Vlan
from kdht.errors import DatapathError

INDEXES = {"eth0": 2, "eth1": 3, "eth2": 4, "bond0": 5, "bond0.7": 6}
MAC = bytes([2, 0, 0, 0, 0, 1])


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """eth1 and eth2 are ports of bond0."""
    monkeypatch.setattr(networks, "_INTERFACES", tmp_path)
    monkeypatch.setattr(networks, "_index_of", INDEXES.__getitem__)
    monkeypatch.setattr(networks, "mac_of", lambda name: MAC)
    (tmp_path / "bond0/bonding").mkdir(parents=True)
    (tmp_path / "bond0/bonding/slaves").write_text("eth1 eth2\n")
    return tmp_path


def places(*chosen: str, vlans: tuple[Vlan, ...] = (), native: tuple[str, ...] = ()):
    return [
        (each.ifindex, each.device, each.vlan, each.generic)
        for each in networks.networks_of(chosen, vlans, native)
    ]


def test_frames_come_in_at_the_interface():
    assert places("eth0", native=("eth0",)) == [(2, 2, None, False)]


def test_frames_for_a_bond_come_in_at_its_ports_too():
    assert places("bond0", native=("bond0",)) == [
        (5, 5, None, False),
        (3, 5, None, False),
        (4, 5, None, False),
    ]


def test_frames_of_a_vlan_on_a_bond_come_in_at_its_ports_too():
    vlan = Vlan("bond0.7", INDEXES["bond0.7"], 7, "bond0")
    assert places("bond0.7", vlans=(vlan,)) == [(5, 6, 7, True), (3, 6, 7, True), (4, 6, 7, True)]


def test_a_bond_without_ports_is_an_interface(host: Path):
    (host / "bond0/bonding/slaves").write_text("\n")
    assert places("bond0") == [(5, 5, None, True)]


def test_too_many_are_refused(host: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "_index_of", lambda name: 9)
    (host / "bond0/bonding/slaves").write_text(" ".join(f"eth{number}" for number in range(40)))
    with pytest.raises(DatapathError, match="at most 32 interfaces, not 41"):
        places("bond0")
