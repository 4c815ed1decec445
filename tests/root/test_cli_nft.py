"""kdhtctl nft and doctor on a host with an interface: the rules of a running nfqueue node.

t-cli-nft.n1   kdhtd, nfqueue   eth0 --- bridge
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctl import Ctl, good

from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab

pytestmark = pytest.mark.root


@pytest.fixture
def node(lab: Lab, tmp_path: Path) -> Iterator[LabNode]:
    with Cluster(places_in(lab, 1), tmp_path, datapath="nfqueue") as cluster:
        yield cluster.nodes[0]


@pytest.fixture
def ctl(node: LabNode) -> Ctl:
    return Ctl(node.control, KDHT_CONFIG=str(node.control.parent / "kdhtd.toml"))


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def test_the_rules_shown_compared_removed_and_mended(node, ctl):
    with node.host.enter():
        assert ctl.json("nft", "diff") == {"table": "kdht", "loaded": True, "diff": []}
        assert "table inet kdht" in good(ctl("nft", "show")).decode()
        nft("add", "element", "inet", "kdht", "interfaces", '{ "other0" }')
        changed = ctl("nft", "diff")
        assert changed.returncode == 8
        assert b'"other0"' in changed.stdout
        assert ctl.json("nft", "remove") == {"table": "kdht", "removed": True}
        assert ctl.json("nft", "remove")["removed"] is False
        assert json.loads(ctl("nft", "diff", "--json").stdout)["loaded"] is False
        (path,) = [each for each in ctl.json("status")["datapaths"] if each["name"] == "nfqueue"]
        assert path["state"] == "degraded"
        good(ctl("nft", "apply"))
        assert ctl.json("nft", "diff")["diff"] == []
        (path,) = [each for each in ctl.json("status")["datapaths"] if each["name"] == "nfqueue"]
        assert path["state"] == "up"


def test_what_packets_put_into_sets_is_no_difference(node, ctl):
    with node.host.enter():
        nft("add", "element", "inet", "kdht", "clients4", "{ 10.1.2.3 limit rate over 5/second }")
        assert ctl.json("nft", "diff")["diff"] == []


def test_doctor_finds_the_rule_that_drops_and_its_cure_cures(node, ctl):
    with node.host.enter():
        done = json.loads(ctl("doctor", "--json").stdout)
        assert [each for each in done["findings"] if each["state"] == "failure"] == []
        nft("add", "table", "ip", "theirs")
        nft(
            "add",
            "chain",
            "ip",
            "theirs",
            "forwarding",
            "{ type filter hook forward priority 0; policy drop; }",
        )
        done = ctl("doctor", "--json")
        assert done.returncode == 10
        (failure,) = [each for each in json.loads(done.stdout)["findings"] if each["state"] == "failure"]
        assert "ip theirs forwarding" in failure["what"]
        subprocess.run(failure["mend"].split(), check=True)
        assert ctl("doctor", "--json").returncode == 0
        nft("add", "chain", "ip", "theirs", "incoming", "{ type filter hook input priority 0; policy drop; }")
        (failure,) = [
            each
            for each in json.loads(ctl("doctor", "--json").stdout)["findings"]
            if each["state"] == "failure"
        ]
        subprocess.run(failure["mend"].split(), check=True)
        assert ctl("doctor", "--json").returncode == 0


def test_doctor_finds_a_sysctl_that_somebody_changed(node, ctl):
    with node.host.enter():
        Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("0")
        findings = json.loads(ctl("doctor", "--json").stdout)["findings"]
        assert any(
            "net.ipv4.conf.eth0.forwarding" in each["what"] for each in findings if each["state"] == "failure"
        )


def test_top_draws_the_queues(node, ctl):
    with node.host.enter():
        assert "queues of nfqueue" in good(ctl("top", "--once", "--interval", "0.2")).decode()
