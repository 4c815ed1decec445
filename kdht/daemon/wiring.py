"""Puts the parts of one node together; starts nothing but the storage's writer."""

import asyncio
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from random import SystemRandom

from kdht._routing import Core
from kdht.config.settings import Settings
from kdht.daemon import upkeep
from kdht.daemon.aside import Aside
from kdht.daemon.datadir import DataDir
from kdht.daemon.driver import Driver
from kdht.daemon.inbox import MAX_CONTROL, MAX_SILENT, MAX_UNREACHABLE, Inbox, Line
from kdht.daemon.timings import TimedStore, Timings
from kdht.datapath.base import Datagram
from kdht.datapath.publish import Publisher
from kdht.datapath.socket.transport import SocketTransport
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.node.repair import Repair
from kdht.node.replicas import Coordinator, Policy
from kdht.node.service import Service
from kdht.storage import GroupWriter, LevelStore, StoredRecord
from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.times import SteadyTime
from kdht.wire import Address, Contact

SOCKET_LANE = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One node, put together."""

    core: Core
    publisher: Publisher
    contact: Contact
    store: LevelStore
    writer: GroupWriter
    service: Service
    reader: StoreReader
    coordinator: Coordinator
    transport: SocketTransport
    inbox: Inbox
    cache: RecordCache | None
    driver: Driver
    timings: Timings
    repair: Repair
    aside: Aside


def build(settings: Settings, data: DataDir, node_id: bytes, undo: ExitStack) -> Parts:
    """All parts of the node with this ID, whose data is in `data`; `undo` closes what must be closed.

    Raises StorageError. Runs in the event loop's thread.
    """
    contact = Contact(node_id, *settings.address)
    timings = Timings()
    aside = Aside.prepare(data, settings.config.replication.tombstone_ttl, time.time())
    store = TimedStore(data.records, timings.group)
    undo.callback(store.close)
    writer = GroupWriter(store, max_waiting=settings.config.storage.max_waiting)
    undo.callback(writer.close)
    core = Core()
    publisher = Publisher(core)
    configure(publisher, contact.id, settings)

    inbox = Inbox()
    cache_mib = settings.config.storage.cache
    cache = RecordCache(cache_mib << 20) if cache_mib else None
    reader = store.reader(cache)
    transport = SocketTransport(
        core,
        settings.listen,
        inbox.receive,
        lane=SOCKET_LANE,
        on_unreachable=inbox.unreachable,
        on_away=lambda: _came_back(repair),
        cache=cache,
        reader=partial(_read, reader, timings),
        on_time=lambda: coordinator.tick(time.time()),
    )
    kademlia = Node(
        contact,
        settings.keys,
        publisher.set_bucket,
        SystemRandom(),
        Options(k=settings.config.node.bucket_size, replicas=settings.config.replication.replicas),
        own=settings.unicast,
    )
    coordinator = Coordinator(
        store=store,
        writer=writer,
        core=core,
        sources={address.is_ipv4: address for address in reversed(settings.unicast)},
        rng=SystemRandom(),
        policy=policy(settings),
        census=kademlia.census,
        send=transport.send,
        on_silent=inbox.silent,
    )
    service = Service(
        store=store,
        coordinator=coordinator,
        core=core,
        contact=contact,
        send=transport.send,
        cache=cache,
        on_late=timings.late,
    )
    repair = upkeep.keep(
        kademlia, settings, store=store, cache=cache, coordinator=coordinator, strays=inbox.for_the_node
    )
    if aside.waits:
        repair.doubt_own()
    coordinator.on_alarm(transport.call_in)
    reader.is_caught_up = coordinator.is_caught_up
    driver = Driver(kademlia, transport.send)
    _connect(inbox, service, coordinator, driver, timings)
    store.on_change = partial(_changed, service, repair, cache)
    return Parts(
        core=core,
        publisher=publisher,
        contact=contact,
        store=store,
        writer=writer,
        service=service,
        reader=reader,
        coordinator=coordinator,
        transport=transport,
        inbox=inbox,
        cache=cache,
        driver=driver,
        timings=timings,
        repair=repair,
        aside=aside,
    )


def policy(settings: Settings) -> Policy:
    """How many replicas, and how many of them confirm."""
    config = settings.config.replication
    acks = {"one": 1, "quorum": config.replicas // 2 + 1, "all": config.replicas}
    return Policy(replicas=config.replicas, acks=acks[config.write], tombstone_ttl=config.tombstone_ttl)


def _connect(
    inbox: Inbox, service: Service, coordinator: Coordinator, driver: Driver, timings: Timings
) -> None:
    loop = asyncio.get_running_loop()

    def answer(batch: list[Datagram]) -> None:
        begun = time.perf_counter()
        timings.at_once(service.handle(batch, time.time()), begun)

    def replicate(batch: list[Datagram]) -> None:
        coordinator.receive(batch, time.time())

    def unreachable(address: Address) -> None:
        coordinator.unreachable(address, time.time())

    inbox.connect(
        answer,
        replicate,
        unreachable,
        Line(loop, driver.receive, MAX_CONTROL),
        Line(loop, driver.unreachable, MAX_UNREACHABLE),
        Line(loop, driver.silent, MAX_SILENT),
    )
    coordinator.joined = False
    driver.on_joined = coordinator.found_cluster
    driver.on_barred = coordinator.bar


def _read(
    reader: StoreReader, timings: Timings, keys: list[bytes], rooms: list[int], now: float
) -> list[tuple[int, int, int, bytes] | None]:
    begun = time.perf_counter()
    records = reader.of(keys, rooms, now)
    timings.at_once(len(records) - records.count(None), begun)
    return records


def _came_back(repair: Repair) -> None:
    """The node was away: what it had caught up on before it compares anew, before it answers anything from it."""
    log.warning("was away for half a second or more: compares its records with other replicas anew")
    repair.catch_up_anew(SteadyTime(time.monotonic()))


def _changed(
    service: Service, repair: Repair, cache: RecordCache | None, key: bytes, record: StoredRecord
) -> None:
    if cache:
        cache.invalidate(key)
    repair.changed(key)
    service.changed(key, record, time.time())


def configure(publisher: Publisher, node_id: bytes, settings: Settings) -> None:
    """Publish what the datapaths need to know of this node."""
    node = settings.config.node
    source4, source6 = settings.usual(ipv4=True), settings.usual(ipv4=False)
    publisher.configure(
        self_id=node_id,
        port=settings.address.port,
        own=[address.ip for address in settings.own],
        source4=source4.ip if source4 else None,
        source6=source6.ip if source6 else None,
        keys=[(key.epoch, key.tag) for key in settings.keys],
        cookie_key=settings.keys[0].cookie,
        cookies=node.cookies,
        window=node.replay_window,
        hop_limit=node.hop_limit,
    )
