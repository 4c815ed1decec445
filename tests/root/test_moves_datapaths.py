"""A node that moves keeps its datapath, and leaves nothing of its former ID on the host.

client   n1   n2   n3   n4
  |      |    |    |    |        each on its own veth, whose bridge end lets XDP programs send
--+------+----+-- br0 --+--
"""

from pathlib import Path

import pytest
from ctl import Ctl

from kdht import Client
from kdht.datapath.ebpf.datapath import remove_leftovers
from kdht.datapath.ebpf.xdp_links import BPFFS
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

VALUES = {f"key {n}": f"value {n}".encode() for n in range(100)}


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_a_moved_node_works_on_in_the_packet_path(tmp_path: Path, kind: str) -> None:
    settings = {"datapath": {"ebpf_keep": True} if kind == "ebpf" else {}}
    with Lab("moves") as lab:
        places = places_in(lab, 4)
        client_host = lab.host("client", ipv4="10.53.48.250/24")
        lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=kind, settings=settings) as cluster:
            node = cluster.nodes[2]
            former = node.status()["node_id"]
            with (
                client_host.enter(),
                Client([str(each.address) for each in cluster.nodes], timeout=30) as client,
            ):
                for key, value in VALUES.items():
                    client.put(key, value)
                capabilities = node.status()["capabilities"]
                moved = Ctl(node.control).json("move", "--anyway")
                assert moved["from"] == former != moved["to"]
                status = node.status()
                assert {path["name"]: path["state"] for path in status["datapaths"]} == {
                    "socket": "up",
                    kind: "up",
                }
                assert status["capabilities"] == capabilities
                wait_until(lambda: all(each.ready(3) for each in cluster.nodes), "all to know it")
                assert {key: client.get(key, quorum=True) for key in VALUES} == VALUES
            assert not (BPFFS / f"kdht-{former}").exists()
            assert (BPFFS / f"kdht-{moved['to']}").exists() == (kind == "ebpf")
            assert "another ID is chosen" in node.log.read_text()
        for each in cluster.nodes:  # ebpf_keep leaves what the last ID had
            remove_leftovers(bytes.fromhex((each.records.parent / "node_id").read_text().strip()))
