"""One virtual node's part in the replication of records: store, coordinator, service, wired as in the daemon."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.datapath.memory import MemoryNetwork
from kdht.node.census import Counts
from kdht.node.repair import Repair
from kdht.node.replicas import Coordinator, Policy
from kdht.node.service import Service
from kdht.node.sorting import by_receiver
from kdht.storage import MemoryStore, StoredRecord, Writer
from kdht.wire import Address, Contact

TICK = 0.005
"""The least seconds between the coordinator's ticks, as in the daemon."""


class Records:
    """`store` outlives the node, as a disk does, and `writer` writes to it; `skew`: how far its clock is ahead of the
    network's, seconds. `call_at` calls back as the network does, where the node still runs."""

    def __init__(
        self,
        network: MemoryNetwork,
        core: Core,
        contact: Contact,
        send: Callable[[Iterable[Outgoing]], int],
        *,
        also: Sequence[Address] = (),
        policy: Policy,
        census: Counts,
        store: MemoryStore,
        writer: Writer,
        call_at: Callable[..., None],
        rng: Random,
        skew: float = 0.0,
        on_silent: Callable[[Address], None],
    ) -> None:
        self.network = network
        self.store = store
        self._call_at = call_at
        self.skew = skew
        self.coordinator = Coordinator(
            store=store,
            writer=writer,
            core=core,
            sources={address.is_ipv4: address for address in (*also, contact.address)},
            rng=rng,
            policy=policy,
            census=census,
            send=send,
            on_silent=on_silent,
        )
        self.service = Service(
            store=store,
            coordinator=self.coordinator,
            core=core,
            contact=contact,
            send=send,
        )
        store.on_change = self._changed
        self._next_tick: float | None = None
        self.coordinator.on_alarm(self._arm)
        self.repair: Repair | None = None

    def repaired_by(self, repair: Repair, strays: Callable[[list[Datagram]], None]) -> None:
        """Have the node's repair know of changes; `strays` takes answers to its pushes back to it."""
        self.repair = repair
        self.coordinator.joined = False
        self.coordinator.is_caught_up = repair.is_caught_up
        self.coordinator.holds = repair.holds
        self.coordinator.on_missed = repair.missed
        self.coordinator.on_strays = strays

    @property
    def now(self) -> float:
        """Unix seconds by this node's clock."""
        return self.network.now + self.skew

    def receive(self, batch: list[Datagram]) -> list[Datagram]:
        """Take requests, STORE and FETCH; what is left is the node's."""
        routed, replicas, left = by_receiver(batch)
        if replicas:
            self.coordinator.receive(replicas, self.now)
        if routed:
            self.service.handle(routed, self.now)
        return left

    def _changed(self, key: bytes, record: StoredRecord) -> None:
        if self.repair is not None:
            self.repair.changed(key)
        self.service.changed(key, record, self.now)

    def _arm(self, seconds: float) -> None:
        when = self.network.now + max(seconds, TICK)
        if self._next_tick is None or when < self._next_tick:
            self._next_tick = when
            self._call_at(when, partial(self._tick, when))

    def _tick(self, when: float) -> None:
        if when != self._next_tick:
            return  # another one came in its place
        self._next_tick = None
        seconds = self.coordinator.tick(self.now)
        if seconds is not None:
            self._arm(seconds)
