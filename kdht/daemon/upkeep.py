"""Gives the node its records to keep: its repair, the store, the cache and the coordinator know of each other."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from kdht.config.settings import Settings
from kdht.datapath.base import Datagram
from kdht.errors import StorageError
from kdht.node.node import Node
from kdht.node.repair import Repair, RepairOptions
from kdht.node.replicas import Coordinator
from kdht.storage import Store
from kdht.storage._cache import RecordCache

log = logging.getLogger(__name__)


def keep(
    node: Node,
    settings: Settings,
    *,
    store: Store,
    cache: RecordCache | None,
    coordinator: Coordinator,
    strays: Callable[[list[Datagram]], None],
) -> Repair:
    """Have `node` keep the records in `store`. `strays` takes answers to its pushes back to it.

    Runs in the event loop's thread; records are dropped on another one, for that waits for the disk.
    """
    loop = asyncio.get_running_loop()

    def drop(records: Sequence[tuple[bytes, int]]) -> None:
        loop.run_in_executor(None, dropped, records)

    def dropped(records: Sequence[tuple[bytes, int]]) -> None:
        try:
            store.drop(records)
        except StorageError as error:
            log.warning("records that were given away stay for now", extra={"error": error})
            return
        for key, _ in records:
            if cache:
                cache.invalidate(key)
            repair.changed(key)

    replication = settings.config.replication
    options = RepairOptions(replicas=replication.replicas, rate=replication.repair_rate)
    repair = node.keep(store, options, drop, coordinator.replicate)
    coordinator.is_caught_up = repair.is_caught_up
    coordinator.holds = repair.holds
    coordinator.on_missed = repair.missed
    if cache:
        repair.on_fell_behind = cache.clear
    coordinator.on_strays = strays
    return repair
