"""The node's ID: from its data directory, or chosen before the node joins.

During the choice a newcomer listens on its own addresses, because firewalls are open there. It answers no
requests. It has an ID within seconds, even if the others say little (Chooser).
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import SystemRandom

from kdht._routing import Core
from kdht.config.settings import Settings
from kdht.daemon.bootstrap import in_thread, resolve_bootstrap
from kdht.daemon.datadir import DataDir
from kdht.daemon.node_queue import MAX_CONTROL, Line
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import ConfigError
from kdht.node.messages import UNKNOWN_ID
from kdht.node.place.choice import Chooser, ChosenId
from kdht.times import SteadyTime
from kdht.wire import Address
from kdht.wire._shared import ID_LEN

log = logging.getLogger(__name__)

# The transport of the node gets the same lane later. By then this one has stopped.
LANE = 1
# A host that boots may be ready before its resolver. A random place is better than no node.
RESOLVE_SECONDS = 10.0
"""A newcomer waits so long for the bootstrap names to resolve."""
# Seconds. Orchestrators publish a name when its host is up, which may be later than this start.
RESOLVE_AGAIN = 0.5


async def of_node(settings: Settings, data: DataDir) -> bytes:
    """This node's ID, chosen and kept if it has none yet.

    Raises ConfigError, StorageError, and DatapathError if the node cannot listen.
    """
    kept = data.node_id()
    check(settings, kept)
    if kept is not None:
        return kept
    found = await _choose(settings, data)
    # On disk before the node joins: after a crash it comes back as the same node.
    data.keep_node_id(found.id)
    # The first node of a cluster has nothing to tell.
    level = logging.INFO if found.asked else logging.DEBUG
    log.log(level, "ID chosen", extra={"node_id": found.id.hex(), "why": found.why})
    return found.id


def check(settings: Settings, kept: bytes | None) -> None:
    """Check the configured ID against the saved one. Raises ConfigError."""
    wanted = settings.config.node.id.id
    if kept is not None and wanted is not None and kept != wanted:
        raise ConfigError(
            f'node.id is {wanted.hex()}, but {settings.data_dir} is of the node {kept.hex()}: set it to that or to "balanced", '
            "which leaves the ID as it is; or, to have another ID, run kdhtctl drain, then remove the file node_id there"
        )


async def _choose(settings: Settings, data: DataDir) -> ChosenId:
    wanted = settings.config.node.id
    if wanted.id is not None:
        return ChosenId(wanted.id, "node.id names it")
    if wanted == "random":
        return ChosenId(secrets.token_bytes(ID_LEN), "by chance: node.id is random")
    # A node that moves knows its cluster, even if no name resolves just now.
    former = [contact.address for contact in data.load_contacts()]
    return await _ask(settings, [*await _bootstrap(settings), *former])


async def _bootstrap(settings: Settings) -> list[Address]:
    """Addresses of node.bootstrap. Waits until the names resolve, RESOLVE_SECONDS at most."""
    end = time.monotonic() + RESOLVE_SECONDS
    found = await in_thread(partial(resolve_bootstrap, settings))
    while found.unresolved and not found.addresses and time.monotonic() < end:
        await asyncio.sleep(RESOLVE_AGAIN)
        found = await in_thread(partial(resolve_bootstrap, settings))
    return found.addresses


async def _ask(settings: Settings, seeds: Sequence[Address]) -> ChosenId:
    """The ID that a Chooser finds. It asks `seeds` first."""
    loop = asyncio.get_running_loop()
    chooser = Chooser(settings.unicast, settings.keys, SystemRandom())
    driver = _Driver(chooser, loop)
    line = Line(loop, driver.receive, MAX_CONTROL)
    # Other nodes have the anycast address too: answers to it may go elsewhere.
    anycast = settings.own[len(settings.unicast) :]
    listen = [address for address in settings.listen if address not in anycast]
    transport = SocketTransport(_core(settings), listen, lane=LANE, freebind=settings.config.node.freebind)
    transport.start(Handlers.without_records(line.put))
    try:
        return await driver.run(seeds, transport.send)
    finally:
        driver.stop()
        transport.stop()


def _core(settings: Settings) -> Core:
    """A core for verdicts on answers. All other messages end here and are ignored."""
    core = Core()
    # Unicast only: an anycast address is for nodes that serve.
    core.configure(self_id=UNKNOWN_ID, **settings.core_fields(settings.unicast))
    return core


class _Driver:
    """Runs a Chooser in the event loop."""

    def __init__(self, chooser: Chooser, loop: asyncio.AbstractEventLoop) -> None:
        self._chooser = chooser
        self._loop = loop
        self._send: Callable[[list[Outgoing]], object] = len
        self._alarm: asyncio.TimerHandle | None = None
        self._found: asyncio.Future[ChosenId] = loop.create_future()

    async def run(self, seeds: Sequence[Address], send: Callable[[list[Outgoing]], object]) -> ChosenId:
        """Ask until an ID is found. `send` sends the questions."""
        self._send = send
        self._chooser.start(seeds, self._now())
        self._follow_up()
        return await self._found

    def stop(self) -> None:
        """Stop the wake-ups."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._found.cancel()

    def receive(self, batch: list[Datagram]) -> None:
        """Take control messages."""
        for datagram in batch:
            self._chooser.receive(datagram, self._now())
        self._follow_up()

    def _tick(self) -> None:
        self._chooser.tick(self._now())
        self._follow_up()

    def _follow_up(self) -> None:
        if self._found.done():
            return
        self._send(self._chooser.datagrams_to_send())
        if self._alarm is not None:
            self._alarm.cancel()
        when = self._chooser.next_wake()
        if self._chooser.found is not None:
            self._found.set_result(self._chooser.found)
        elif when is not None:
            self._alarm = self._loop.call_at(when, self._tick)

    def _now(self) -> SteadyTime:
        now = SteadyTime(self._loop.time())
        self._chooser.set_unix_offset(time.time() - now)
        return now
