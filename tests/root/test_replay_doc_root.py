"""The commands of docs/replay.md that need root or a running node, at a node of a real cluster."""

from pathlib import Path

import pytest
from replay_doc import Step, prepare, run, steps

from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab

pytestmark = pytest.mark.root


def test_the_commands_for_a_running_node_work(lab: Lab, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    prepare(home)
    with Cluster(places_in(lab, 2), tmp_path, datapath="nfqueue") as cluster:
        node = cluster.nodes[1]
        places = {"KDHT_SOCKET": str(node.control), "KDHT_CONFIG": str(node.control.with_name("kdhtd.toml"))}
        with node.host.enter():
            run(Step("kdht-replay generate capture.pcap --table table.json --count 500", None, 0), home, 0)
            for step in steps("root"):
                run(step, home, 0, **places)
            run(Step("kdht-replay check bug-17", None, 0), home, 0)
