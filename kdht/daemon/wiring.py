"""Puts the parts of one node together; starts nothing but the storage's writer.

The order: store, core, transport; the node with its repair; the driver and the queue to it; the answers to clients
(`assemble`). The daemon then starts the transport with the handlers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import SystemRandom
from typing import cast

from kdht._routing import Core
from kdht.config.settings import Settings
from kdht.daemon.aside import AsideRecords
from kdht.daemon.datadir import DataDir
from kdht.daemon.datapaths import client_rates
from kdht.daemon.driver import Driver
from kdht.daemon.hot import HotKeeper
from kdht.daemon.node_queue import NodeQueue
from kdht.daemon.timings import TimedStore, Timings
from kdht.datapath.base import Handlers, Reader
from kdht.datapath.publish import Publisher
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import StorageError
from kdht.node.access import Access, AccessPolicy
from kdht.node.assembly import assemble
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.node.reflector import Reflector
from kdht.node.repair import Keeping, Repair, RepairOptions
from kdht.node.repair.keeping import Drop, Dropped
from kdht.node.replicas import ClusterState, Coordinator, Policy
from kdht.node.service import Service
from kdht.storage import GroupWriter, LevelStore
from kdht.storage._cache import RecordCache
from kdht.storage._hot import ENDED, HotTable
from kdht.storage._reader import StoreReader
from kdht.storage.base import OnChange, Store
from kdht.storage.room import MIB, Limits, Room, buffer_for, disk_space
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Contact

SOCKET_LANE = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one node."""

    core: Core
    publisher: Publisher
    contact: Contact
    store: LevelStore
    writer: GroupWriter
    service: Service
    reflector: Reflector
    reader: StoreReader
    coordinator: Coordinator
    transport: SocketTransport
    access: Access
    on_change: OnChange
    """For writes to the store that bypass the writer."""
    handlers: Handlers
    """For the transport's start."""
    queue: NodeQueue
    cache: RecordCache | None
    hot: HotKeeper | None
    driver: Driver
    timings: Timings
    repair: Repair
    aside: AsideRecords


def build(
    settings: Settings, data: DataDir, node_id: bytes, undo: ExitStack, on_resumes: Callable[[], None]
) -> Parts:
    """Make all parts of the node with this ID and this data directory. `undo` gets the parts to close at the end.

    `on_resumes` is called when the node has to be started again (Driver). Raises StorageError. Runs in the event
    loop's thread.
    """
    contact = Contact(node_id, *settings.address)
    timings = Timings()
    # Before the store is opened, because records may have to leave its directory.
    aside = AsideRecords.prepare(data, settings.config.replication.tombstone_ttl, UnixTime(time.time()))
    store = _store(settings, data, timings)
    # Registered first, so that it is closed last: the writer and the transport use it until they have ended.
    undo.callback(store.close)
    core = Core()
    publisher = Publisher(core)
    configure(publisher, contact.id, settings)
    cache_mib = settings.config.storage.cache
    cache = RecordCache(cache_mib << 20, HotTable()) if cache_mib else None
    transport = SocketTransport(
        core,
        settings.listen,
        own=[address.ip for address in (*settings.own, *settings.also)],
        lane=SOCKET_LANE,
        cache=cache,
        rates=client_rates(settings),
        freebind=settings.config.node.freebind,
    )
    access = Access(settings.access)
    cluster = ClusterState(policy(settings))
    kademlia, repair = _node(settings, contact, publisher, _keeping(settings, store, cache, cluster))
    if aside.waits:
        repair.doubt_own()
    driver = Driver(kademlia, transport.send, on_resumes)
    queue = NodeQueue(asyncio.get_running_loop(), driver)
    reader = store.reader(cache, repair.is_caught_up)

    def open_writer(on_change: OnChange) -> GroupWriter:
        writer = GroupWriter(store, on_change, max_waiting=settings.config.storage.max_waiting)
        undo.callback(writer.close)
        return writer

    assembly = assemble(
        core=core,
        contact=contact,
        own=settings.unicast,
        transport=transport,
        store=store,
        open_writer=open_writer,
        cache=cache,
        reader=_timed(reader, timings),
        cluster=cluster,
        repair=repair,
        node=queue,
        access=access,
        observer=timings,
        rng=SystemRandom(),
        clock=cast(Callable[[], UnixTime], time.time),  # no wrapper: called for each batch
        room=store.room,
        steady=cast(Callable[[], SteadyTime], time.monotonic),
    )
    return Parts(
        core=core,
        publisher=publisher,
        contact=contact,
        store=store,
        writer=assembly.writer,
        service=assembly.service,
        reflector=assembly.reflector,
        reader=reader,
        coordinator=assembly.coordinator,
        transport=transport,
        access=access,
        on_change=assembly.on_change,
        handlers=assembly.handlers,
        queue=queue,
        cache=cache,
        hot=_hot_keeper(cache, repair, driver),
        driver=driver,
        timings=timings,
        repair=repair,
        aside=aside,
    )


def _store(settings: Settings, data: DataDir, timings: Timings) -> TimedStore:
    config = settings.config.storage
    look = disk_space(str(data.path))
    limits = Limits(
        value_bytes=config.quota * MIB,
        records=config.quota_records,
        writer_bytes=config.writer_quota * MIB,
        writer_records=config.writer_quota_records,
        max_ttl=config.max_ttl,
        min_free=config.min_free * MIB,
        write_buffer=buffer_for(config.write_buffer * MIB, look()),
    )
    room = Room(limits, look)
    return TimedStore(data.records, settings.config.node.replay_window, room, timings.group)


def policy(settings: Settings) -> Policy:
    """The configured number of replicas, and of confirmations for a write."""
    config = settings.config.replication
    acks = {"one": 1, "quorum": config.replicas // 2 + 1, "all": config.replicas}
    return Policy(
        replicas=config.replicas,
        acks=acks[config.write],
        tombstone_ttl=config.tombstone_ttl,
        window=settings.config.node.replay_window,
    )


def _node(
    settings: Settings, contact: Contact, publisher: Publisher, keeping: Keeping
) -> tuple[Node, Repair]:
    config = settings.config
    options = Options(k=config.node.bucket_size, replicas=config.replication.replicas)
    node = Node(
        contact, settings.keys, publisher.set_bucket, SystemRandom(), options, settings.unicast, keeping
    )
    assert node.repair is not None
    return node, node.repair


def _keeping(settings: Settings, store: Store, cache: RecordCache | None, cluster: ClusterState) -> Keeping:
    replication = settings.config.replication
    return Keeping(
        store=store,
        options=RepairOptions(replicas=replication.replicas, rate=replication.repair_rate),
        cluster=cluster,
        drop=_dropping(store, cache),
        on_fell_behind=cache.clear if cache is not None else _no_cache,
    )


def _no_cache() -> None:
    """No-op: there is no cache."""


def _dropping(store: Store, cache: RecordCache | None) -> Drop:
    """Drops records on another thread, because it waits for the disk."""
    # Asked here and not in `drop`, which any thread may call.
    loop = asyncio.get_running_loop()

    def drop(records: Sequence[tuple[bytes, int]], dropped: Dropped) -> None:
        loop.run_in_executor(None, drop_now, records, dropped)

    def drop_now(records: Sequence[tuple[bytes, int]], dropped: Dropped) -> None:
        try:
            store.drop(records)
        except StorageError as error:
            log.warning("records that were given away stay for now", extra={"error": error})
            return
        if cache is not None:
            for key, _ in records:
                cache.invalidate(key)
        dropped(records)

    return drop


def _timed(reader: StoreReader, timings: Timings) -> Reader:
    """Answers GETs from LevelDB, and measures how long that takes."""

    def read(keys: list[bytes], rooms: list[int], now: UnixTime) -> list[tuple[int, int, int, bytes] | None]:
        begun = time.perf_counter()
        records = reader.of(keys, rooms, now)
        timings.at_once(len(records) - records.count(None), begun)
        return records

    return read


def _hot_keeper(cache: RecordCache | None, repair: Repair, driver: Driver) -> HotKeeper | None:
    if cache is None or cache.hot is None:
        return None
    return HotKeeper(cache.hot, cache, lambda: repair.caught_up and not driver.aside)


def stop_answers(parts: Parts) -> None:
    """From now on this node's hot records are not answered at the interface: it ends, or gives its records away."""
    if parts.cache is not None and parts.cache.hot is not None:
        parts.cache.hot.forbid(ENDED, True)


def drain(parts: Parts) -> None:
    """Leave the cluster, and give all records away. May be called again."""
    stop_answers(parts)
    parts.driver.drain()


def set_access(parts: Parts, policy: AccessPolicy, now: UnixTime) -> None:
    """Have everybody's rights judged by this policy from now on, those of watching clients too."""
    # The transport first when it shall ask, so nothing is answered unasked between the two.
    parts.transport.check_reads(True)
    parts.access.set_policy(policy)
    parts.transport.check_reads(parts.access.asks_readers)
    parts.service.access_changed(now)


def configure(publisher: Publisher, node_id: bytes, settings: Settings) -> None:
    """Publish this node's settings to the datapaths."""
    publisher.configure(
        self_id=node_id,
        **settings.core_fields((*settings.own, *settings.also)),
        hop_limit=settings.config.node.hop_limit,
        write_cookie=settings.write_cookie,
        prefixes=settings.senders.prefixes(),
    )
