"""The metrics of nodes whose packets are diverted: queues and every datapath's verdicts, through a switch."""

import asyncio
from pathlib import Path

import pytest
from pages import ask
from prometheus_client.parser import text_string_to_metric_families as parse

from kdht.client import AsyncClient
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab

pytestmark = pytest.mark.root

AT = "127.0.0.1:9548"
REQUESTS = 200


def scrape(node: LabNode) -> dict[tuple[str, ...], float]:
    """Values by name and the labels' values."""
    with node.host.enter():
        said = ask(f"http://{AT}/metrics")
    found = [sample for family in parse(said.body) for sample in family.samples]
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for sample in found
    }


def traffic(client: Host, cluster: Cluster) -> None:
    async def work() -> None:
        async with AsyncClient([str(node.address) for node in cluster.nodes]) as kdht:
            await kdht.put_many({f"key {number}": b"value" for number in range(REQUESTS)})
            assert len(await kdht.get_many(f"key {number}" for number in range(REQUESTS))) == REQUESTS

    with client.enter():
        asyncio.run(work())


def test_the_work_of_each_datapath_is_reported(lab: Lab, tmp_path: Path) -> None:
    client = lab.host("client", ipv4="10.53.48.250/24")
    settings = {"metrics": {"listen": AT}}
    with Cluster(places_in(lab, 3), tmp_path, datapath="nfqueue", settings=settings) as cluster:
        node = cluster.nodes[0]
        traffic(client, cluster)
        queued = scrape(node)
        (number,) = [labels[1] for labels in queued if labels[0] == "kdht_queue_waiting"]
        assert queued["kdht_queue_waiting", number] == 0
        assert queued["kdht_queue_missed_total", number, "full"] == 0
        assert queued["kdht_queue_packets_total", "forwarded", number] > 0
        assert queued["kdht_queue_workers_total",] == 1
        assert queued["kdht_datapath_state", "nfqueue", "up"] == 1
        assert queued["kdht_packets_total", "nfqueue", "ENTERED", "FORWARD"] > 0
        assert queued["kdht_packets_total", "ebpf", "ENTERED", "FORWARD"] == 0
        node.call("switch", kind="ebpf")
        traffic(client, cluster)
        in_kernel = scrape(node)
        assert in_kernel["kdht_datapath_state", "ebpf", "up"] == 1
        assert ("kdht_datapath_state", "nfqueue", "up") not in in_kernel
        assert in_kernel["kdht_packets_total", "ebpf", "ENTERED", "FORWARD"] > 0
        same = ("kdht_packets_total", "nfqueue", "ENTERED", "FORWARD")
        assert in_kernel[same] >= queued[same], "a counter never falls, whatever runs"
