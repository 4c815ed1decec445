"""One virtual node: core, transport and control plane on a MemoryNetwork, and its records if it keeps any."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers
from kdht.datapath.memory import MemoryNetwork, MemoryTransport
from kdht.lab.virtual.disk import CrashStore, DiskWriter
from kdht.lab.virtual.process import Process
from kdht.node.access import OPEN, Access
from kdht.node.assembly import Assembly, assemble
from kdht.node.events import Event
from kdht.node.node import Node
from kdht.node.observer import Unobserved
from kdht.node.options import Options
from kdht.node.repair import Keeping, RepairOptions, dropping_at_once
from kdht.node.replicas import ClusterState, Policy
from kdht.storage import InlineWriter, MemoryStore, Writer
from kdht.storage.base import OnChange
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_BITS
from kdht.wire.keys import derive

KEY = derive(0, b"the virtual clusters' secret")

OnPublish = Callable[["Member", int, list[Contact]], None]
"""Called with each bucket published by a member."""


class Member:
    """One node with its core and transport. It publishes to the core.

    With a `policy` it serves requests and keeps records, in `store`; without, it routes only. A CrashStore is written
    to as to a disk, which takes time; any other at once. `repair`: its repair's options.
    `skew`: the seconds that its clock is ahead of the network's. `also`: its address of the other IP version, if it
    has one. `keeping` is for tests: the node repairs its records, and serves no requests.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        contact: Contact,
        seed: int,
        options: Options | None = None,
        *,
        also: Address | None = None,
        policy: Policy | None = None,
        store: MemoryStore | None = None,
        repair: RepairOptions | None = None,
        skew: float = 0.0,
        on_publish: OnPublish | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.contact = contact
        self.addresses = (contact.address, also) if also else (contact.address,)
        self.process = Process(network)
        self.skew = skew
        self._disk: DiskWriter | None = None
        self.network = network
        self.core = Core()
        self.core.configure(
            self_id=contact.id,
            port=contact.port,
            own=[address.ip for address in self.addresses],
            source4=next((address.ip for address in self.addresses if address.is_ipv4), None),
            source6=next((address.ip for address in self.addresses if not address.is_ipv4), None),
            keys=[(KEY.epoch, KEY.tag)],
            cookie_key=KEY.cookie,
            cookies=False,
        )
        self.on_publish = on_publish
        options = options or Options()
        self.store = MemoryStore() if store is None else store
        if policy is not None:
            options = replace(options, replicas=policy.replicas)
            keeping = Keeping(
                store=self.store,
                options=repair or RepairOptions(replicas=policy.replicas),
                cluster=ClusterState(policy),
                drop=dropping_at_once(self.store),
                on_fell_behind=_no_cache,
            )
        rng = Random(f"{seed}/{contact}")
        self.node = Node(contact, [KEY], self._publish, rng, options, self.addresses, keeping)
        self.node.unix_offset = skew
        self.transport = MemoryTransport(
            network, self.core, self.addresses, skew=skew, call_at=self.process.call_at
        )
        self.seen: list[Event] = []
        self._wake = float("inf")
        self.records: Assembly[Writer] | None = None
        if policy is not None and keeping is not None:
            self.records = self._assemble(keeping.cluster, seed)
        if self.records is not None:
            self.transport.start(self.records.handlers)
        else:
            self.transport.start(Handlers.without_records(self.control))

    def join(self, bootstrap: Iterable[Contact]) -> None:
        self.node.join([contact.address for contact in bootstrap], self.network.now)
        self.flush()

    def restore(self, contacts: Sequence[Contact]) -> None:
        """Have these asked, as contacts of an earlier run."""
        self.node.restore(contacts, self.network.now)
        self.flush()

    def flush(self) -> None:
        """Send the datagrams, keep the events, arrange the next tick."""
        self.transport.send(self.node.datagrams_to_send())
        self.seen += self.node.events()
        wake = self.node.next_wake()
        if wake is not None and wake < self._wake:
            self._wake = wake
            self.process.call_at(wake, self._tick, wake)

    def stop(self) -> None:
        """Die without a word."""
        self.transport.stop()
        self.process.kill()
        if self._disk is not None:
            self._disk.crash()

    def pause(self) -> None:
        """Stop the process. Datagrams and due callbacks wait."""
        self.transport.pause()
        self.process.pause()

    def resume(self) -> None:
        """Continue. Waiting datagrams and due callbacks come all at once."""
        self.process.resume()
        self.transport.resume()

    def drain(self) -> None:
        """Give all records away."""
        self.node.drain(self.network.now)
        self.flush()

    @property
    def drained(self) -> bool:
        """Whether it has given all its records away."""
        return self.node.repair is not None and self.node.repair.drained

    @property
    def alive(self) -> bool:
        return self.transport.status()["state"] == "up"

    def published(self) -> list[Contact]:
        return [contact for index in range(ID_BITS) for contact in self.core.bucket(index)]

    # Input for the node from the transport, the coordinator and the service (NodeInput)

    def control(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            self.node.receive(datagram, self.network.now)
        self.flush()

    def unreachable(self, address: Address) -> None:
        self.node.unreachable(address, self.network.now)
        self.flush()

    def silent(self, address: Address) -> None:
        self.node.silent(address, self.network.now)
        self.flush()

    def _assemble(self, cluster: ClusterState, seed: int) -> Assembly[Writer]:
        assert self.node.repair is not None
        return assemble(
            core=self.core,
            contact=self.contact,
            own=self.addresses,
            transport=self.transport,
            store=self.store,
            open_writer=partial(self._open_writer, Random(f"{seed}/{self.contact}/disk")),
            cache=None,
            reader=None,
            cluster=cluster,
            repair=self.node.repair,
            node=self,
            access=Access(OPEN),
            observer=Unobserved(),
            rng=Random(f"{seed}/{self.contact}/records"),
            clock=self.clock,
            room=self.store.room,
            steady=lambda: SteadyTime(self.network.now),
        )

    def clock(self) -> UnixTime:
        """Unix seconds, as this node sees them."""
        return UnixTime(self.network.now + self.skew)

    def _open_writer(self, rng: Random, on_change: OnChange) -> Writer:
        if not isinstance(self.store, CrashStore):
            return InlineWriter(self.store, on_change)
        self._disk = DiskWriter(self.store, on_change, self._after, rng)
        return self._disk

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.process.call_at(self.network.now + seconds, callback)

    def _publish(self, index: int, contacts: list[Contact]) -> None:
        self.core.set_bucket(index, contacts)
        if self.on_publish is not None:
            self.on_publish(self, index, contacts)

    def _tick(self, wake: float) -> None:
        if wake != self._wake:
            return
        self._wake = float("inf")
        self.node.tick(self.network.now)
        self.flush()


def _no_cache() -> None:
    """No-op: there is no cache."""
