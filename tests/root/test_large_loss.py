"""A large value over links that lose one datagram in twenty, with requests that may be tried twice.

client   n1   n2   n3
  |      |    |    |
--+------+----+----+-- br0
"""

import random
from pathlib import Path

import pytest

from kdht import Client
from kdht.client._manifest import CHUNK_SIZE
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

NODES = 3
READY_S = 60.0
LOST_PERMILLE = 50
VALUE = random.Random(5).randbytes(4 << 20)


def test_lost_datagrams_end_no_transfer(tmp_path: Path) -> None:
    """Of a chunk's first datagram and two tries about one in two hundred are all lost: a request and its answer cross up to four links."""
    with Lab("t-large") as lab:
        places = places_in(lab, NODES)
        host = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, tmp_path, datapath="socket", ids=spread(NODES)) as cluster:
            wait_until(
                lambda: all(node.status()["ready"] for node in cluster.nodes), "all to be ready", READY_S
            )
            hosts = [host, *(node.host for node in cluster.nodes)]

            def lose(permille: int) -> None:
                for each in hosts:
                    each.lose(permille)

            # The journal and the manifest are ordinary requests, for which so few tries are too few.
            def lossy(done: int, total: int) -> None:
                if CHUNK_SIZE * 10 < done <= CHUNK_SIZE * 11:
                    lose(LOST_PERMILLE)
                elif done == total:
                    lose(0)

            names = [str(node.address) for node in cluster.nodes]
            with host.enter(), Client(names, timeout=5.0, attempts=2) as client:
                client.put_large("big", VALUE, progress=lossy)
                assert client.get_large("big", progress=lossy) == VALUE
