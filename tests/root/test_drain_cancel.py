"""A drain that is called off, on the datapaths that change the host: the node starts anew in its process.

 n1   n2   n3
  |    |    |
--+----+----+-- br0
"""

from pathlib import Path

import pytest

from kdht.client import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_a_drain_is_called_off(tmp_path: Path, kind: str) -> None:
    with Lab(f"t-stay-{kind}") as lab:
        places = places_in(lab, 3)
        if kind == "ebpf":
            lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=kind) as cluster:
            first, _, third = cluster.nodes
            values = {f"key {n}": b"%d" % n for n in range(100)}
            with first.host.enter(), Client(str(first.address)) as client:
                client.put_many(values)
            pid = third.pid
            wait_until(lambda: third.call("drain")["drained"], "all to be given away")
            third.call("stay")
            cluster.wait_ready()
            wait_until(lambda: third.status()["records"] == 100, "it to have all again")
            found = [(path["name"], path["state"]) for path in third.status()["datapaths"]]
            assert found == [("socket", "up"), (kind, "up")]
            assert third.pid == pid
            with first.host.enter(), Client(str(third.address)) as client:
                assert client.get_many(values) == values
            assert third.stop() == 0
