"""kdht: three nodes that all keep each record, of which two confirm. Asked at the first one, and for reads at the last."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.asking import ask
from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds
from bench.peers.durable.base import NODES, START
from bench.peers.kdht_cluster import PROTOCOL, Asked, get_request, key_of
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until
from kdht.wire._shared import Op


class Running:
    """A Store."""

    def __init__(self, cluster: Cluster, values: Sequence[bytes]) -> None:
        self.cluster = cluster
        self._values = values
        self._asked = Asked(cluster, values)
        self.cookie = self._asked.cookie

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._asked.pids())

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        return self._asked.put(numbers, outstanding)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing | None:
        requests = [get_request(key_of(n), self.cookie, op=Op.QUORUM_GET) for n in numbers]
        answers = [self._values[n] for n in numbers]
        return ask([str(self.cluster.nodes[-1].address)], requests, answers, PROTOCOL, outstanding)


@dataclass(frozen=True)
class Own:
    """A Durable."""

    name: str = "kdht"
    notes: str = (
        "The socket datapath, LevelDB on all three, two confirm. Asked at one node, which owns a third of the keys and passes "
        "the others on. Its reads are QUORUM_GETs."
    )

    def missing(self) -> str | None:
        return None

    @contextmanager
    def store(self, values: Sequence[bytes], directory: Path) -> Iterator[Running]:
        with cluster(directory) as own:
            yield Running(own, values)


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Three nodes, ready."""
    places, ids = places_on_loopback(NODES), spread(NODES)
    home = directory / "kdht"
    home.mkdir()
    with Cluster(places, home, datapath="socket", ids=ids) as found:
        for node in found.nodes:
            wait_until(lambda node=node: node.status()["ready"], f"{node.name} to be ready", START)  # type: ignore[misc]
        yield found
