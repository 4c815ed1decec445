"""The demonstration's stage: a cluster, and the host of its clients.

nfqueue   n1 ... nN and `client` on one bridge, each in a network namespace of its own:

              client    n1     n2    ...   nN
                |       |      |           |
              --+-------+------+-- br0 ----+--

ebpf      the same, and the bridge lets XDP programs send

socket    127.0.0.1 ... 127.0.0.N, and the clients on 127.0.0.1
"""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from kdht.lab.cluster import Cluster, LabNode, places_in, places_on_loopback
from kdht.lab.netns import Host, Lab
from kdht.lab.stage import client_host, runtime_dir_as_found

PREFIX = "kdht-demo"


@dataclass(frozen=True, slots=True)
class Stage:
    datapath: str
    cluster: Cluster
    client: Host | None
    """The clients' own host; None on loopback."""

    @property
    def nodes(self) -> list[LabNode]:
        return self.cluster.nodes

    def as_client(self) -> AbstractContextManager[None]:
        """Sockets opened in the block are on the client's host."""
        return self.client.enter() if self.client else nullcontext()


@contextmanager
def built(datapath: str, nodes: int, *, ipv6: bool = False) -> Iterator[Stage]:
    """The stage with its cluster running; nothing is left of it afterwards. Raises LabError."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdht-demo-")))
        client = None
        if datapath != "socket":
            stack.enter_context(runtime_dir_as_found())
            lab = stack.enter_context(Lab(PREFIX))
            places = places_in(lab, nodes, ipv4=not ipv6, ipv6=ipv6)
            client = client_host(lab, ipv6=ipv6)
            # Answers of one length that leave a node together would count as one.
            lab.cut_bundles(client)
            if datapath == "ebpf":
                lab.let_xdp_send()
        else:
            places = places_on_loopback(nodes)
        yield Stage(datapath, stack.enter_context(Cluster(places, directory, datapath=datapath)), client)
