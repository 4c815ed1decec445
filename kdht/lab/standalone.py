"""The parts of a node that answer clients, without a network, a node or other replicas: for tests, fuzzing and benchmarks.

The cluster state is a joined node's without contacts. It has caught up on everything.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.node.access import OPEN, Access
from kdht.node.assembly import Assembly, RepairedRecords, assemble
from kdht.node.observer import Unobserved
from kdht.node.replicas import ClusterState, Policy
from kdht.storage import InlineWriter, Store, Writer
from kdht.storage._cache import RecordCache
from kdht.storage.base import OnChange
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address, Contact

Send = Callable[[list[Outgoing]], object]


def standalone(
    *,
    core: Core,
    contact: Contact,
    store: Store,
    send: Send,
    clock: Callable[[], UnixTime],
    policy: Policy | None = None,
    cache: RecordCache | None = None,
    repair: RepairedRecords | None = None,
    open_writer: Callable[[OnChange], Writer] | None = None,
    access: Access | None = None,
) -> Assembly[Writer]:
    """`send` gets each batch of datagrams. Without a policy a record has one replica; without a writer, writes are done
    at once; without `access` everybody may do everything."""
    cluster = ClusterState(policy or Policy(replicas=1, acks=1))
    cluster.found()
    return assemble(
        core=core,
        contact=contact,
        own=[contact.address],
        transport=SendOnly(send),
        store=store,
        open_writer=open_writer or (lambda on_change: InlineWriter(store, on_change)),
        cache=cache,
        reader=None,
        cluster=cluster,
        repair=repair or CaughtUpOnAll(),
        node=NoNode(),
        access=access or Access(OPEN),
        observer=Unobserved(),
        # Seeded, so that a run can be repeated.
        rng=Random(1),
        clock=clock,
        room=store.room,
        steady=lambda: SteadyTime(clock()),
    )


class CaughtUpOnAll:
    """A repair without work."""

    def is_caught_up(self, key: bytes) -> bool:
        return True

    def holds(self, key: bytes) -> bool:
        return True

    def missed(self, key: bytes) -> None:
        pass

    def changed(self, key: bytes) -> None:
        pass

    def catch_up_anew(self) -> None:
        pass


class SendOnly:
    """A Transport that never receives anything; alarms do not ring."""

    name = "none"

    def __init__(self, send: Send) -> None:
        self._send = send

    def start(self, handlers: Handlers) -> None:
        pass

    def stop(self) -> None:
        pass

    def status(self) -> Mapping[str, object]:
        return {"state": "up", "why": ""}

    def send(self, batch: Iterable[Outgoing]) -> int:
        items = batch if isinstance(batch, list) else list(batch)
        self._send(items)
        return len(items)

    def call_in(self, seconds: float) -> None:
        pass

    def check_reads(self, wanted: bool) -> None:
        pass


class NoNode:
    """A NodeInput without a node."""

    def control(self, batch: list[Datagram]) -> None:
        pass

    def unreachable(self, address: Address) -> None:
        pass

    def silent(self, address: Address) -> None:
        pass
