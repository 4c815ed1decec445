"""Joins the parts of a node that keeps records. The daemon and the laboratory both call `assemble`.

    transport --> Dispatcher --> Service ------> Coordinator --> Writer --> store
                       |                             ^               |
                       '--> NodeInput --> Node ------'               '--> cache, Repair, SetIndex, Notifier

The caller makes the store, the transport and the node with its repair; then `assemble` makes the rest; then the
caller starts the transport with the handlers. So every part gets what it needs as an argument of its making.

Contract: no I/O and no clock; `clock` tells Unix seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from kdht._routing import Core
from kdht.datapath.base import Handlers, Reader, Transport
from kdht.node._changes import RecordChanges
from kdht.node.access import Access
from kdht.node.cluster import ClusterState
from kdht.node.dispatch import Dispatcher, NodeInput
from kdht.node.late_answers import LateAnswers
from kdht.node.notifier import Notifier
from kdht.node.observer import Observer
from kdht.node.reflector import Reflector
from kdht.node.replicas.coordinator import Coordinator, KeptRecords
from kdht.node.replicas.leases import Leases
from kdht.node.replies import Replies
from kdht.node.service import Service
from kdht.node.sets.index import SetIndex
from kdht.node.sets.service import SetService
from kdht.storage import Store, StoredRecord, Writer
from kdht.storage._cache import RecordCache
from kdht.storage.base import OnChange
from kdht.storage.room import Room
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address, Contact
from kdht.wire.sets import SHARED_LEN

W = TypeVar("W", bound=Writer)


class RepairedRecords(KeptRecords, Protocol):
    """The node's repair. Thread-safe."""

    def changed(self, key: bytes, /) -> None:
        """The own store has another record for this key."""

    def catch_up_anew(self) -> None:
        """The node was away: it has caught up on nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly(Generic[W]):
    """The parts that keep records and answer clients, and the handlers for the transport's start."""

    writer: W
    coordinator: Coordinator
    service: Service
    reflector: Reflector
    on_change: OnChange
    """For writes to the store that do not go through the writer."""
    handlers: Handlers


def assemble(
    *,
    core: Core,
    contact: Contact,
    own: Sequence[Address],
    transport: Transport,
    store: Store,
    open_writer: Callable[[OnChange], W],
    cache: RecordCache | None,
    reader: Reader | None,
    cluster: ClusterState,
    repair: RepairedRecords,
    node: NodeInput,
    access: Access,
    observer: Observer,
    rng: Random,
    clock: Callable[[], UnixTime],
    room: Room,
    steady: Callable[[], SteadyTime],
    plain: bool = False,
) -> Assembly[W]:
    """`own`: this node's own addresses; the first of each IP version is the one that it talks to other nodes from.

    `cluster` and `repair` are those of the node, to which `node` leads. `room` is the store's. `open_writer` makes the writer to `store`.
    `plain`: as in Coordinator.
    """
    replies, leases = Replies(core, transport.send), Leases(steady)
    sets = SetIndex(store)
    on_change = _changes(cache, repair, sets, leases, Notifier(leases, replies), clock)
    # After `on_change` has all its parts: the writer's thread starts at once, and its first group may call it.
    writer = open_writer(on_change)
    coordinator = Coordinator(
        store=store,
        cache=cache,
        writer=writer,
        core=core,
        sources={address.is_ipv4: address for address in reversed(own)},
        rng=rng,
        cluster=cluster,
        repair=repair,
        send=transport.send,
        call_in=transport.call_in,
        on_silent=node.silent,
        on_strays=node.control,
        sets=sets,
        plain=plain,
    )
    late = LateAnswers(replies, room, observer.late)
    set_service = SetService(
        index=sets,
        coordinator=coordinator,
        repair=repair,
        replies=replies,
        access=access,
        room=room,
        leases=leases,
        late=late,
        kept=cache.members if cache is not None else None,
    )
    service = Service(
        store=store,
        coordinator=coordinator,
        repair=repair,
        core=core,
        contact=contact,
        replies=replies,
        leases=leases,
        cache=cache,
        access=access,
        on_late=observer.late,
        late=late,
        room=room,
        sets=set_service,
    )
    reflector = Reflector(core, contact.id, transport.send)
    dispatcher = Dispatcher(
        service=service,
        coordinator=coordinator,
        reflector=reflector,
        node=node,
        observer=observer,
        clock=clock,
    )

    def away() -> None:
        # Before repair, which empties the cache: the count must be there when an operator wonders why reads got
        # slower.
        observer.away()
        repair.catch_up_anew()

    handlers = Handlers(
        receive=dispatcher.receive,
        unreachable=dispatcher.unreachable,
        away=away,
        time=dispatcher.tick,
        read=reader,
        may_read=access.may_read,
        direct=coordinator.direct(
            service.put_answers,
            service.read_answers,
            all_write=lambda: access.lets_all_write,
            all_read=lambda: not access.asks_readers,
            clock=clock,
        ),
    )
    # Before the start, so that no read is answered unasked.
    transport.check_reads(access.asks_readers)
    return Assembly(
        writer=writer,
        coordinator=coordinator,
        service=service,
        reflector=reflector,
        on_change=on_change,
        handlers=handlers,
    )


def _changes(
    cache: RecordCache | None,
    repair: RepairedRecords,
    sets: SetIndex,
    leases: Leases,
    notifier: Notifier,
    clock: Callable[[], UnixTime],
) -> OnChange:
    """What follows from a changed record, on the writer's thread."""

    def notify(key: bytes, record: StoredRecord, is_news: bool) -> None:
        notifier.changed(key, record, clock())
        if is_news:
            notifier.set_changed(key, record, clock())

    return RecordChanges(
        None if cache is None else cache.invalidate,
        repair.changed,
        sets.nearby,
        SHARED_LEN,
        sets.changed,
        None if cache is None else cache.members.changed,
        leases.by_key,
        notify,
    ).changed
