"""One virtual node: core, transport and control plane on a MemoryNetwork, and its records if it keeps any."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.datapath.memory import MemoryNetwork
from kdht.lab.virtual.disk import CrashStore, DiskWriter
from kdht.lab.virtual.process import Process
from kdht.lab.virtual.records import Records
from kdht.node.events import Admitted, Barred, Event, Joined
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.storage import InlineWriter, MemoryStore, Writer
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_BITS
from kdht.wire.keys import derive

KEY = derive(0, b"the virtual clusters' secret")

OnPublish = Callable[["Member", int, list[Contact]], None]
"""Hears of each bucket that a member publishes."""


class Member:
    """One node with its core and transport. What it publishes goes to the core.

    With a `policy` it serves requests and keeps records, in `store`; without, it routes only. A CrashStore is written
    to as to a disk, which takes time; any other at once. Its clock is `skew` seconds ahead of the network's. `also`: its
    address of the other IP version, if it has one.
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
        if policy is not None:
            options = replace(options, replicas=policy.replicas)
        self.node = Node(contact, [KEY], self._publish, Random(f"{seed}/{contact}"), options, self.addresses)
        self.node.unix_offset = skew
        self.transport = network.attach(
            self.core,
            contact.address,
            self._receive,
            also=self.addresses[1:],
            skew=skew,
            on_away=self._came_back,
        )
        store = MemoryStore() if store is None else store
        self.records = None if policy is None else self._keep(policy, store, repair, seed)
        self.seen: list[Event] = []
        self._wake = float("inf")

    def join(self, bootstrap: Iterable[Contact]) -> None:
        self.node.join([contact.address for contact in bootstrap], self.network.now)
        self.flush()

    def restore(self, contacts: Sequence[Contact]) -> None:
        """Have these asked, as contacts of an earlier run."""
        self.node.restore(contacts, self.network.now)
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent, keep the events, arrange the next tick."""
        self.transport.send(self.node.datagrams_to_send())
        events = self.node.events()
        self.seen += events
        if self.records is not None:
            for event in events:
                if type(event) is Joined:
                    self.records.coordinator.found_cluster()
                elif isinstance(event, Barred | Admitted):
                    self.records.coordinator.bar(isinstance(event, Barred))
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
        """Be stopped: what arrives waits, and so does what is due."""
        self.transport.pause()
        self.process.pause()

    def resume(self) -> None:
        """Go on: what came and what was due, all at once."""
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

    def _keep(self, policy: Policy, store: MemoryStore, options: RepairOptions | None, seed: int) -> Records:
        records = Records(
            self.network,
            self.core,
            self.contact,
            self.transport.send,
            also=self.addresses[1:],
            policy=policy,
            census=self.node.census,
            store=store,
            writer=self._writer(store, Random(f"{seed}/{self.contact}/disk")),
            call_at=self.process.call_at,
            rng=Random(f"{seed}/{self.contact}/records"),
            skew=self.skew,
            on_silent=self._silent,
        )
        chosen = options or RepairOptions(replicas=policy.replicas)
        repair = self.node.keep(store, chosen, on_replicas=records.coordinator.replicate)
        records.repaired_by(repair, self._take)
        return records

    def _writer(self, store: MemoryStore, rng: Random) -> Writer:
        if not isinstance(store, CrashStore):
            return InlineWriter(store)
        self._disk = DiskWriter(store, self._after, rng)
        return self._disk

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.process.call_at(self.network.now + seconds, callback)

    def _came_back(self) -> None:
        if self.node.repair is not None:
            self.node.repair.catch_up_anew(self.network.now)

    def _silent(self, address: Address) -> None:
        self.node.silent(address, self.network.now)
        self.flush()

    def _publish(self, index: int, contacts: list[Contact]) -> None:
        self.core.set_bucket(index, contacts)
        if self.on_publish is not None:
            self.on_publish(self, index, contacts)

    def _receive(self, batch: list[Datagram]) -> None:
        self._take(batch if self.records is None else self.records.receive(batch))

    def _take(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            self.node.receive(datagram, self.network.now)
        self.flush()

    def _tick(self, wake: float) -> None:
        if wake != self._wake:
            return
        self._wake = float("inf")
        self.node.tick(self.network.now)
        self.flush()
