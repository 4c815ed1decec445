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
from kdht.lab.wait import wait_until

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


def test_the_rules_shown_compared_and_mended_by_the_node(node, ctl):
    def as_configured() -> bool:
        # It ends with another status where there is a difference: the node mends the rules meanwhile.
        found = json.loads(ctl("nft", "diff", "--json").stdout)
        return found == {"table": "kdht", "loaded": True, "diff": []}

    with node.host.enter():
        assert as_configured()
        assert "table inet kdht" in good(ctl("nft", "show")).decode()
        for change in (
            ("add", "element", "inet", "kdht", "interfaces", '{ "other0" }'),
            ("flush", "chain", "inet", "kdht", "forward"),
            ("delete", "table", "inet", "kdht"),
        ):
            nft(*change)
            wait_until(as_configured, f"the rules after {change}")
        good(ctl("nft", "apply"))
        wait_until(as_configured, "the rules after nft apply")
        (path,) = [each for each in ctl.json("status")["datapaths"] if each["name"] == "nfqueue"]
        assert path["state"] == "up"


def test_only_a_killed_nodes_rules_are_removed(node, ctl):
    with node.host.enter():
        refused = ctl("nft", "remove")
        assert refused.returncode == 4
        assert b"kdhtctl datapath socket" in refused.stderr
        node.kill()
        assert ctl.json("nft", "remove") == {"table": "kdht", "removed": True}
        assert ctl.json("nft", "remove")["removed"] is False
        nft("add", "table", "inet", "kdht")
        assert ctl("nft", "diff").returncode == 8


def test_dynamic_set_elements_are_no_change(node, ctl):
    with node.host.enter():
        nft("add", "element", "inet", "kdht", "readers4", "{ 10.1.2.3 limit rate over 5/second }")
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


def test_doctor_finds_a_sysctl_that_somebody_insists_on(node, ctl):
    sysctl = Path("/proc/sys/net/ipv4/conf/eth0/forwarding")
    with node.host.enter():
        for _ in range(5):
            sysctl.write_text("0")
            wait_until(lambda: sysctl.read_text() == "1\n", "it to be set again")
        sysctl.write_text("0")
        (path,) = [each for each in ctl.json("status")["datapaths"] if each["name"] == "nfqueue"]
        assert "net.ipv4.conf.eth0.forwarding again and again" in path["why"]
        findings = json.loads(ctl("doctor", "--json").stdout)["findings"]
        assert any(
            "net.ipv4.conf.eth0.forwarding" in each["what"] for each in findings if each["state"] == "failure"
        )


def test_top_draws_the_queues(node, ctl):
    with node.host.enter():
        assert "queue of nfqueue" in good(ctl("top", "--once", "--interval", "0.2")).decode()
