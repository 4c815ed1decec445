"""Periodic work of a running daemon: sweeps, snapshots of the table, a look at the datapaths."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from kdht.config.settings import Settings
from kdht.daemon.datadir import DataDir
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.hot import BEAT_SECONDS
from kdht.daemon.wiring import Parts
from kdht.datapath.base import Datapath
from kdht.errors import KdhtError
from kdht.node.readiness import DISK
from kdht.times import UnixTime
from kdht.wire import Contact

log = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 1.0
"""Short, for the first node of a cluster has no bootstrap: were it killed before it kept its contacts, it would start as a
cluster of its own, and confirm writes alone."""
# Asking a datapath may cost a round to the kernel or to a worker process.
WATCH_SECONDS = 10.0
# A full disk, or one that takes writes again, shows within a second.
STORE_SECONDS = 1.0
LEARNED_KEYS = 20_000
"""Keys that the store learns at a time, after a start: with 1 KiB values 20 MiB/s of reading."""
# It decides about hours, so a minute is exact enough, and a write to the disk each second would not be.
CAUGHT_UP_SECONDS = 60.0
ADDRESS_SECONDS = 0.2
"""Requests at a new address are lost so long, so a failover by VRRP takes that much longer."""
# Between two steps the neighbours answer, and the event loop does its other work.
ASIDE_SECONDS = 1.0
# Clients' writes wait for the same lock as a step of this many.
SWEEP_RECORDS = 1000
LEVELS = {"up": logging.INFO, "degraded": logging.WARNING}

Work = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    data: DataDir,
    parts: Parts,
    datapaths: Datapaths,
    on_deaf: Callable[[str], None],
    follow_addresses: Callable[[], None],
) -> AsyncIterator[None]:
    """Run all of it in tasks. The end of the block waits for steps under way.

    `on_deaf` gets the reason if the transport dies. `follow_addresses` looks whether this host's have changed.
    """
    saver = Saver(data, parts)
    state_logger = StateLogger(lambda: [parts.transport, *datapaths.running()], on_deaf)
    ended = asyncio.Event()

    async def look_at_addresses() -> None:
        follow_addresses()

    jobs: list[tuple[float, Work]] = [
        (settings.config.storage.sweep_interval, lambda: sweep(parts)),
        (SNAPSHOT_SECONDS, saver.save),
        (STORE_SECONDS, lambda: look_at_store(parts)),
        (WATCH_SECONDS, state_logger.look),
        (CAUGHT_UP_SECONDS, lambda: save_caught_up(data, parts)),
        (ADDRESS_SECONDS, look_at_addresses),
    ]
    if parts.hot is not None:
        jobs.append((BEAT_SECONDS, parts.hot.beat))
    # Decided at the start: only a start sets records aside.
    if parts.aside.waits:
        jobs.append((ASIDE_SECONDS, lambda: _step_aside(parts)))
    tasks = [asyncio.create_task(_every(seconds, work, ended)) for seconds, work in jobs]
    try:
        yield
    finally:
        ended.set()
        # No cancelling: a step is on a thread, and would go on while the store is closed.
        await asyncio.gather(*tasks)
        # Once more at the end, so the next start has the latest.
        await _safely(saver.save)
        await _safely(lambda: save_caught_up(data, parts))


async def _every(seconds: float, work: Work, ended: asyncio.Event) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            # In place of a sleep, so that the end waits for no interval.
            await asyncio.wait_for(ended.wait(), seconds)
        if ended.is_set():
            return
        await _safely(work)


async def _safely(work: Work) -> None:
    """The next time may do better: a full disk, for one, is cleared."""
    try:
        await work()
    except KdhtError as error:
        log.error("housekeeping failed", extra={"error": error})
    except Exception:
        log.exception("housekeeping failed")


async def _step_aside(parts: Parts) -> None:
    await parts.aside.step(parts.repair, parts.coordinator, parts.store, parts.on_change)


async def save_caught_up(data: DataDir, parts: Parts) -> None:
    """Note when this node had last caught up: the next start sees how long it was away."""
    # With doubted records set aside, the node has not caught up on those.
    if parts.repair.caught_up and not parts.aside.waits:
        await asyncio.to_thread(data.save_caught_up, UnixTime(time.time()))


async def look_at_store(parts: Parts) -> None:
    """Whether its disk takes writes, and what has room. A node without a disk should get no requests."""
    store, readiness = parts.store, parts.driver.readiness
    if not store.failed:
        await asyncio.to_thread(store.look, UnixTime(time.time()))
        readiness.reached(DISK)
        await asyncio.to_thread(store.learn_keys, LEARNED_KEYS)
        return
    # First, so that no balancer sends clients here while it tries.
    readiness.require(DISK)
    if await asyncio.to_thread(store.recover, UnixTime(time.time()), parts.on_change):
        log.warning("the disk takes writes again", extra={"path": store.path})
        readiness.reached(DISK)


async def sweep(parts: Parts) -> None:
    """Remove all expired records, a bounded number at a time."""
    total = 0
    while True:
        removed = await asyncio.to_thread(parts.store.sweep, UnixTime(time.time()), SWEEP_RECORDS)
        total += removed
        # Fewer than asked for: none is left.
        if removed < SWEEP_RECORDS:
            break
    if total:
        log.info("expired records removed", extra={"records": total})


class Saver:
    """Keeps the contacts on disk for the next start, when they have changed."""

    def __init__(self, data: DataDir, parts: Parts) -> None:
        self._data = data
        self._parts = parts
        self._saved: list[Contact] = []

    async def save(self) -> None:
        if self._parts.driver.aside:
            return  # whom it knew before, it asks when it comes back
        # The dead too, so a node that is cut off knows whom to ask, and that it is not the whole cluster.
        contacts = [*self._parts.driver.contacts(), *self._parts.driver.gone]
        # An idle cluster should not keep a disk awake.
        if contacts != self._saved:
            await asyncio.to_thread(self._data.save_contacts, contacts)
            self._saved = contacts


class StateLogger:
    """Logs when a datapath's state changes. The first one is the transport: without it all is lost."""

    def __init__(self, datapaths: Callable[[], Sequence[Datapath]], on_deaf: Callable[[str], None]) -> None:
        self._datapaths = datapaths
        self._on_deaf = on_deaf
        self._known = {path.name: path.status()["state"] for path in datapaths()}

    async def look(self) -> None:
        for index, path in enumerate(self._datapaths()):
            status = await asyncio.to_thread(path.status)
            state = str(status["state"])
            if state != self._known.get(path.name, "up"):
                self._known[path.name] = state
                fields = {"datapath": path.name, "state": state, "why": status.get("why", "")}
                log.log(LEVELS.get(state, logging.ERROR), "datapath changed", extra=fields)
                # Any other datapath's packets go on to the socket when it dies.
                if index == 0 and state == "down":
                    self._on_deaf(str(status.get("why", "")))
