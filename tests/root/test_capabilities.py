"""A root daemon keeps what its datapaths need and nothing else, and can still undo everything."""

from pathlib import Path

import pytest

from kdht.datapath import netlink
from kdht.lab.cluster import Cluster, Node, places_in
from kdht.lab.netns import Lab

pytestmark = pytest.mark.root

KEPT = {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"}
MASK = 1 << 12 | 1 << 39 | 1 << 38


def masks(node: Node) -> list[tuple[int, int, int]]:
    """Effective, permitted and bounding set of every thread."""
    found = []
    for task in Path(f"/proc/{node.pid}/task").iterdir():
        fields = dict(
            line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line
        )
        found.append(tuple(int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")))
    return found


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_every_thread_has_only_what_is_needed(lab: Lab, tmp_path: Path, kind: str) -> None:
    places = places_in(lab, 2)
    lab.let_xdp_send()
    with Cluster(places, tmp_path, datapath=kind) as cluster:
        node = cluster.nodes[1]
        assert set(node.status()["capabilities"]) == KEPT
        assert set(masks(node)) == {(MASK, MASK, MASK)}
        for other in ("ebpf", "socket", "nfqueue", "ebpf"):
            assert node.call("switch", kind=other)["kind"] == other
        assert node.stop() == 0
        assert "Traceback" not in node.log.read_text()
        assert node.host.run(["nft", "list", "tables"]).stdout == ""
        assert node.host.sysctl("net/ipv4/conf/eth0/forwarding") == "0"
        with node.host.enter():
            assert netlink.xdp_of("eth0").program == 0
