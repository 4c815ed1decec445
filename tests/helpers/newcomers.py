"""Nodes that choose their ID in a virtual cluster before they join it."""

from collections.abc import Sequence
from random import Random

from nodes import KEY, Cluster, address_of

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.datapath.memory import attach
from kdht.node.messages import UNKNOWN_ID
from kdht.node.place.choice import Chooser, ChosenId
from kdht.node.place.shares import least_greatest, owned
from kdht.wire import Address


class Newcomer:
    """The node with this number, until it has an ID; then, `joining`, it joins with it."""

    def __init__(
        self, cluster: Cluster, number: int, seeds: Sequence[Address] | None = None, *, joining: bool = True
    ) -> None:
        self.cluster = cluster
        self.number = number
        self.network = network = cluster.network
        self.address = address_of(number)
        self.began = network.now
        self.took: float | None = None
        self._joining = joining
        self._wake = float("inf")
        core = Core()
        core.configure(
            self_id=UNKNOWN_ID, port=self.address.port, own=[self.address.ip], source4=self.address.ip, source6=None,
            keys=[(KEY.epoch, KEY.tag)], cookie_key=KEY.cookie, cookies=False,
        )  # fmt: skip
        self.chooser = Chooser([self.address], [KEY], Random(f"{cluster.seed}/{number}"))
        self.transport = attach(network, core, self.address, self._receive)
        if seeds is None:
            seeds = [cluster.members[0].contact.address]
        self._seeds = seeds
        self.chooser.start(seeds, network.now)
        self._flush()

    @property
    def found(self) -> ChosenId | None:
        return self.chooser.found

    def _receive(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            self.chooser.receive(datagram, self.network.now)
        self._flush()

    def _tick(self, wake: float) -> None:
        if wake == self._wake and self.took is None:
            self._wake = float("inf")
            self.chooser.tick(self.network.now)
            self._flush()

    def _flush(self) -> None:
        self.transport.send(self.chooser.datagrams_to_send())
        if self.found is not None and self.took is None:
            self.took = self.network.now - self.began
            self.transport.stop()
            if self._joining:
                seeds = [m.contact for m in self.cluster.members if m.contact.address in self._seeds]
                self.cluster.add(self.number, seeds, self.found.id)
        wake = self.chooser.next_wake()
        if wake is not None and wake < self._wake:
            self._wake = wake
            self.network.call_at(wake, self._tick, wake)


def owner_of(cluster: Cluster) -> float:
    """The greatest owner's share as a multiple of the least possible."""
    ids = sorted(int.from_bytes(member.contact.id, "big") for member in cluster.members)
    return max(owned(ids)) * len(ids) / least_greatest(len(ids))
