"""Puts the parts of one node together; starts nothing but the storage's writer."""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from random import SystemRandom

from kdht._routing import Core
from kdht.daemon.datadir import DataDir
from kdht.daemon.driver import Driver
from kdht.daemon.inbox import MAX_CONTROL, MAX_UNREACHABLE, Inbox, Line
from kdht.daemon.settings import Settings
from kdht.datapath.base import Datagram
from kdht.datapath.publish import Publisher
from kdht.datapath.socket import SocketTransport
from kdht.node.node import Node
from kdht.node.service import Service
from kdht.storage import GroupWriter, LevelStore
from kdht.wire import Contact

SOCKET_LANE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One node, put together."""

    core: Core
    publisher: Publisher
    contact: Contact
    store: LevelStore
    writer: GroupWriter
    service: Service
    transport: SocketTransport
    inbox: Inbox
    driver: Driver


def build(settings: Settings, data: DataDir, undo: ExitStack) -> Parts:
    """All parts of the node whose data is in `data`; `undo` closes what must be closed.

    Raises StorageError. Runs in the event loop's thread.
    """
    node = settings.config.node
    contact = Contact(data.node_id(), *settings.address)
    store = LevelStore(data.records)
    undo.callback(store.close)
    writer = GroupWriter(store, max_waiting=settings.config.storage.max_waiting)
    undo.callback(writer.close)
    core = Core()
    publisher = Publisher(core)
    configure(publisher, contact.id, settings)

    inbox = Inbox()
    transport = SocketTransport(
        core, settings.listen, inbox.receive, lane=SOCKET_LANE, on_unreachable=inbox.unreachable
    )
    service = Service(
        store=store,
        writer=writer,
        core=core,
        contact=contact,
        own=settings.own,
        send=transport.send,
        cookies=node.cookies,
        hop_limit=node.hop_limit,
    )
    kademlia = Node(contact, settings.keys, publisher.set_bucket, SystemRandom(), own=settings.unicast)
    driver = Driver(kademlia, transport.send)
    _connect(inbox, service, driver)
    return Parts(
        core=core,
        publisher=publisher,
        contact=contact,
        store=store,
        writer=writer,
        service=service,
        transport=transport,
        inbox=inbox,
        driver=driver,
    )


def _connect(inbox: Inbox, service: Service, driver: Driver) -> None:
    loop = asyncio.get_running_loop()

    def answer(batch: list[Datagram]) -> None:
        service.handle(batch, time.time())

    inbox.connect(
        answer, Line(loop, driver.receive, MAX_CONTROL), Line(loop, driver.unreachable, MAX_UNREACHABLE)
    )


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
