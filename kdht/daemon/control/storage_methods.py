"""Methods of the control socket for the records: figures, compaction, an export in pages."""

import asyncio
import time
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta

from kdht.daemon.control.network_methods import id_of
from kdht.daemon.control.running import RunningNode
from kdht.daemon.control.server import Method, Params, taken
from kdht.program.answers import Compacted, ExportPage, StorageFigures
from kdht.storage import LevelStore, StoredRecord
from kdht.storage.exported import plain
from kdht.times import UnixTime

# Records. The answer is one line of JSON, and the event loop makes it.
PAGE = 1000


class ExportParams(msgspec.Struct, forbid_unknown_fields=True):
    start: str = ""
    """The first key, 40 hexadecimal digits; empty for the first of all."""
    limit: Annotated[int, Meta(ge=1, le=PAGE)] = PAGE


class StorageMethods:
    """The methods of one daemon's store."""

    def __init__(self, running: RunningNode) -> None:
        self._running = running

    def table(self) -> dict[str, Method]:
        return {
            "storage": Method(self._storage),
            "compact": Method(self._compact, owner_only=True),
            "export": Method(self._export, owner_only=True),
        }

    async def _storage(self, params: Params) -> StorageFigures:
        """As `stats` has it, with the database's own words."""
        parts = self._running().parts
        return StorageFigures(*await asyncio.to_thread(parts.store.stats), *parts.writer.stats())

    async def _compact(self, params: Params) -> Compacted:
        """Rewrite the database without replaced records. Returns the bytes on disk before and after."""
        parts = self._running().parts
        before = parts.store.stats().disk_bytes
        await asyncio.to_thread(parts.store.compact)
        return Compacted(before, parts.store.stats().disk_bytes)

    async def _export(self, params: Params) -> ExportPage:
        """A page of records, and the first key of the next page; None at the end."""
        parts = self._running().parts
        asked = taken(params, ExportParams)
        start = id_of(asked.start) if asked.start else b""
        found = await asyncio.to_thread(_page, parts.store, start, asked.limit + 1)
        following = found[asked.limit][0].hex() if len(found) > asked.limit else None
        return ExportPage([plain(key, record) for key, record in found[: asked.limit]], following)


def _page(store: LevelStore, start: bytes, count: int) -> list[tuple[bytes, StoredRecord]]:
    return list(islice(store.scan(UnixTime(time.time()), start), count))
