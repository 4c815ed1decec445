"""Nodes with stores that repair themselves: Members of `nodes` whose records are compared and moved.

STORE is answered as a coordinator answers it: the record is caught_up in the store, then confirmed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random

from nodes import Cluster, Member, address_of, id_of

from kdht.datapath.base import Datagram
from kdht.datapath.memory import Event as NetworkEvent
from kdht.datapath.memory import MemoryNetwork
from kdht.node.options import Options
from kdht.node.repair import Keeping, RepairOptions, dropping_at_once
from kdht.node.repair.ranges import View, number
from kdht.node.replicas import ClusterState, Policy
from kdht.node.replicas.calls import answer
from kdht.node.replicas.quorum_reads import untrusted_stored
from kdht.storage import MemoryStore, Result, StoredRecord, Write
from kdht.wire import FIELD, OFFSET, RECORD, Address, Contact
from kdht.wire._shared import HEADER_LEN, Flag, Op, RecordFlag, Status

VALUE = bytes(100)


class Keeper(Member):
    """A member that keeps records."""

    def __init__(
        self,
        network: MemoryNetwork,
        contact: Contact,
        seed: int,
        options: Options | None = None,
        *,
        repair: RepairOptions | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        kept = store or MemoryStore()
        keeping = Keeping(
            store=kept,
            options=repair or RepairOptions(),
            cluster=ClusterState(Policy()),
            drop=dropping_at_once(kept),
            on_fell_behind=lambda: None,
        )
        super().__init__(network, contact, seed, options, store=kept, keeping=keeping)
        assert self.node.repair is not None
        self.repair = self.node.repair
        self.deaf = False
        """Whether it hears no STORE."""

    def put(self, key: bytes, version: int, value: bytes = VALUE, flags: int = 0, expiry: int = 0) -> None:
        """Write a record here and nowhere else."""
        self._write(key, StoredRecord(version, expiry, flags, value))

    def has(self, key: bytes) -> StoredRecord | None:
        return self.store.get(key, self.network.now)

    def keys(self) -> set[bytes]:
        return {key for key, _ in self.store.scan(self.network.now)}

    def drain(self) -> None:
        self.node.drain(self.network.now)
        self.flush()

    def _write(self, key: bytes, record: StoredRecord) -> Result:
        def changed(key: bytes, record: StoredRecord) -> None:
            self.repair.changed(key)

        (result,) = self.store.apply([Write(key, record)], self.network.now, changed)
        assert isinstance(result, Result)
        return result

    def control(self, batch: list[Datagram]) -> None:
        stores = [
            each
            for each in batch
            if each.data[OFFSET["op"]] == Op.STORE and not each.data[OFFSET["flags"]] & Flag.REPLY
        ]
        for each in () if self.deaf else stores:
            record = untrusted_stored(each.data[FIELD["key"]], each.data[HEADER_LEN:])
            key = each.data[OFFSET["key"] : OFFSET["key"] + 20]
            result = self._write(key, record)
            status = Status.OK if result.accepted else Status.CONFLICT
            body = RECORD.pack(result.version, 0, 0)
            self.transport.send([answer(self.core, each, status, body, self.network.now)])
        super().control([each for each in batch if each not in stores])


class RepairCluster(Cluster):
    """Keepers by number. `packets` counts what is sent, by op and direction."""

    members: list[Keeper]  # type: ignore[assignment]

    def __init__(self, seed: int, *, loss: float = 0.0, repair: RepairOptions | None = None) -> None:
        super().__init__(seed, loss=loss)
        self.repair = repair or RepairOptions()
        self.packets: Counter[str] = Counter()
        self.by_sender: Counter[Address] = Counter()
        self.store_bytes = 0

    def add(
        self,
        number: int,
        bootstrap: Sequence[Contact] | None = None,
        id: bytes | None = None,
        store: MemoryStore | None = None,
    ) -> Keeper:
        contact = Contact(id or id_of(number, self.seed), *address_of(number))
        member = Keeper(self.network, contact, self.seed, self.options, repair=self.repair, store=store)
        if bootstrap is None:
            bootstrap = [self.members[0].contact] if self.members else []
        self.members.append(member)
        member.join(bootstrap)
        return member

    def replicas(self, key: bytes, among: Iterable[Keeper] | None = None) -> list[Keeper]:
        """Who should keep a key, closest first."""
        wanted = int.from_bytes(key, "big")
        members = self.members if among is None else list(among)
        order = sorted(members, key=lambda m: int.from_bytes(m.contact.id, "big") ^ wanted)
        return order[: self.repair.replicas]

    def lacking(self, keys: Iterable[bytes]) -> int:
        """Records that members lack and will get: replicas, and now and then one more (ranges.MAX_FREE_BITS)."""
        ids = {member.contact.id for member in self.members}
        views = [(m, View(m.contact.id, ids - {m.contact.id}, self.repair.replicas)) for m in self.members]
        return sum(m.has(key) is None for key in keys for m, view in views if view.kept_range(number(key)))

    def load(self, count: int, version: int = 1) -> list[bytes]:
        """So many records, each on all of its replicas."""
        rng = Random(f"records {self.seed}")
        keys = [rng.randbytes(20) for _ in range(count)]
        for key in keys:
            for member in self.replicas(key):
                member.put(key, version)
        return keys

    def missing(self, keys: Iterable[bytes]) -> list[tuple[Keeper, bytes]]:
        """Replicas that lack a record that they should have."""
        return [(m, key) for key in keys for m in self.replicas(key) if m.has(key) is None]

    def surplus(self, keys: Iterable[bytes]) -> int:
        """Records at nodes that are no replicas."""
        wanted = Counter(m.contact for key in keys for m in self.replicas(key))
        return sum(len(m.keys()) - wanted[m.contact] for m in self.members)

    def run_until(self, done: Callable[[], object], seconds: float) -> bool:
        """Whether `done` came true in time."""
        end = self.network.now + seconds
        while not done():
            if self.network.now >= end:
                return False
            self.run(0.5)
        return True

    def forget_counts(self) -> None:
        self.packets.clear()
        self.by_sender.clear()
        self.store_bytes = 0

    def _count(self, event: NetworkEvent) -> None:
        super()._count(event)
        if event.what != "duplicated":
            data = event.data
            name = Op(data[OFFSET["op"]]).name
            is_reply = data[OFFSET["flags"]] & Flag.REPLY
            self.packets[name + (" reply" if is_reply else "")] += 1
            self.by_sender[event.source] += 1
            if name == "STORE" and not is_reply:
                self.store_bytes += len(data) - HEADER_LEN


TOMBSTONE = int(RecordFlag.TOMBSTONE)
