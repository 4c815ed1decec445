"""What the XDP program of a laboratory's nodes leaves behind, taken away."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kdht.datapath.ebpf.datapath import remove_leftovers
from kdht.lab.cluster import Cluster


@contextmanager
def pins_removed(cluster: Cluster) -> Iterator[None]:
    """After a failure too: pins outlive processes and namespaces."""
    try:
        yield
    finally:
        for node in cluster.nodes:
            with suppress(FileNotFoundError):
                remove_leftovers(bytes.fromhex(node.log.with_name("data").joinpath("node_id").read_text()))
