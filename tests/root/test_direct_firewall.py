"""Direct answers where they cannot come: the client's host takes datagrams only from whom it has asked.

client   n1   n2   n3   n4
  |      |    |    |    |
--+------+----+----+----+-- br0
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_load import Outcome, get_all, keys, put_all, relayed

from kdht.client._direct import DIRECT_MISSES
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab

pytestmark = pytest.mark.root

NODES = 4
KEYS = 200
GETS = 2000
STATEFUL = """
table inet firewall {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related counter accept
		meta l4proto { icmp, icmpv6 } accept
		counter name refused drop
	}
	counter refused {}
}
"""

Built = tuple[Cluster, Host]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Built]:
    with Lab("t-direct") as lab:
        places = places_in(lab, NODES)
        client = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, tmp_path, datapath="socket") as cluster:
            with client.enter():
                asyncio.run(put_all(cluster, keys(KEYS)))
            yield cluster, client


def test_a_stateful_firewall_costs_no_read(cluster: Built) -> None:
    running, client = cluster
    client.nft(STATEFUL)
    before = relayed(running)
    with client.enter():
        outcome = asyncio.run(get_all(running, keys(KEYS), GETS, direct=True))
    assert outcome == Outcome(right=GETS, wrong=[], lost=[])
    refused = int(client.run(["nft", "list", "counters"]).stdout.split("packets ")[1].split()[0])
    # Those under way together are missed together; a quarter of the keys is the entry node's own.
    assert 0 < refused <= NODES * DIRECT_MISSES * 16
    assert relayed(running) - before > GETS / 2
