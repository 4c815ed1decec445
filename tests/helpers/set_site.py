"""A cluster in virtual time, with a client at each node, for tests of sets."""

from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

from kdht.client import _sets as sets
from kdht.client._steps import Steps
from kdht.errors import KdhtError
from kdht.lab.virtual import VirtualCluster, address_of
from kdht.lab.virtual.client import VirtualClient
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.storage import MemoryStore
from kdht.wire import Address

NAME = "services"


class Site:
    """`nodes` nodes, numbered from 1, and a client of each one."""

    def __init__(
        self, seed: int, nodes: int = 16, new_store: Callable[[], MemoryStore] = MemoryStore
    ) -> None:
        self.cluster = VirtualCluster(seed, policy=Policy(), repair=RepairOptions(), new_store=new_store)
        self.cluster.network.delay = 0.0005, 0.004
        for number in range(1, nodes + 1):
            self.cluster.add(number, bootstrap=self.cluster.contacts())
        self.cluster.run(20)
        self.clients = [self._client(number) for number in range(1, nodes + 1)]

    @property
    def now(self) -> float:
        return self.cluster.network.now

    def _client(self, entry: int) -> VirtualClient:
        own = Address.of(f"192.0.2.{entry}", 40000)
        return VirtualClient(
            self.cluster.network, own, [address_of(entry)], Random(entry), timeout=20.0, attempts=64
        )

    def start(self, entry: int, steps: Steps[Any], then: Callable[[Any], None]) -> None:
        """Through the node `entry`. What it refuses or loses is tried again."""

        def ended(result: Any, error: KdhtError | None) -> None:
            assert error is None, error
            then(result)

        self.clients[entry - 1].run(steps, ended)

    def ask(self, entry: int, steps: Steps[Any]) -> Any:
        found: list[Any] = []
        self.start(entry, steps, found.append)
        while not found:
            self.cluster.run(0.05)
        return found[0]

    def members(self, entry: int) -> set[bytes]:
        return {member.payload for member in self.ask(entry, sets.members(NAME, quorum=True))}

    def cut(self, left: set[int], right: set[int], loss: float) -> None:
        for one, other in product(left, right):
            self.cluster.network.set_loss(address_of(one), address_of(other), loss)
            self.cluster.network.set_loss(address_of(other), address_of(one), loss)

    def announce(self, entry: int, payloads: list[bytes], ttl: int, *, soft: bool = False) -> None:
        """All at once; at the end all are acknowledged."""
        acknowledged: list[int] = []
        for payload in payloads:
            self.start(entry, sets.announce(NAME, payload, ttl, payload, soft=soft), acknowledged.append)
        while len(acknowledged) < len(payloads):
            self.cluster.run(0.05)
