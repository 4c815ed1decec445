"""The in-memory twin of LevelStore, for tests and simulated clusters."""

from collections.abc import Callable, Iterator, Sequence

from kdht.storage import layout
from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.storage.base import (
    OnChange,
    Outcome,
    Stats,
    Wish,
    alive,
    check,
    in_range,
    settle,
    tell,
    without_room,
)
from kdht.storage.promises import MAX_KEYS, Pledges, Promise, above, grant, live
from kdht.storage.record import StoredRecord
from kdht.storage.room import Room, boundless
from kdht.storage.versions import ANY_VERSION, is_possible, latest_readable, latest_version
from kdht.times import UnixTime
from kdht.wire._shared import REPLAY_WINDOW


class MemoryStore:
    """A dictionary of records. Writes come from one thread at a time. `window`: as in `versions`. `room`: None for
    boundless."""

    def __init__(self, window: int = REPLAY_WINDOW, room: Room | None = None) -> None:
        self.room = room or boundless()
        self._window = window
        self._records: dict[bytes, StoredRecord] = {}
        self._promised: dict[bytes, Pledges] = {}

    def get(self, key: bytes, now: UnixTime) -> StoredRecord | None:
        return alive(self._records.get(key), now, latest_readable(now))

    def get_many(self, keys: Sequence[bytes], now: UnixTime) -> list[StoredRecord | None]:
        return [self.get(key, now) for key in keys]

    def reader(self, cache: RecordCache | None, is_caught_up: Callable[[bytes], bool]) -> StoreReader:
        return StoreReader(self._packed, cache, is_caught_up)

    def _packed(self, key: bytes) -> bytes | None:
        record = self._records.get(key.removeprefix(layout.RECORD))
        return None if record is None else layout.pack_record(record)

    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        # As the disk's store does it: tests with this one must meet the same refusals.
        check(wishes)
        self._measure(now)
        latest = latest_version(now, self._window)
        outcomes: list[Outcome] = []
        changes = []
        for wish in wishes:
            key = wish.key
            previous, pledges = self._possible(key, latest), self._promised.get(key, ())
            if isinstance(wish, Promise):
                room = len(self._promised) < MAX_KEYS
                pledges, granted = grant(previous, pledges, wish, now, latest, room=room)
                self._pledge(key, pledges)
                outcomes.append(granted)
                continue
            stays, result = settle(previous, wish, now, latest, live(pledges, now) if pledges else ())
            if stays is not None and stays != previous:
                if not self.room.takes(deleted=stays.deleted, replaces=previous is not None):
                    outcomes.append(without_room(result, previous))
                    continue
                self._records[key] = stays
                changes.append((key, stays))
            outcomes.append(result)
            if pledges and stays is not None:
                self._pledge(key, above(pledges, stays.version))
        self._measure(now)
        tell(on_change, changes)
        return outcomes

    def _measure(self, now: UnixTime) -> None:
        if self.room.limits.value_bytes or self.room.limits.records:
            stats = self.stats()
            self.room.measure(stats.records, stats.value_bytes, now)
        else:
            self.room.look(now)

    def _possible(self, key: bytes, latest: int) -> StoredRecord | None:
        record = self._records.get(key)
        return None if record is None or not is_possible(record, latest) else record

    def _pledge(self, key: bytes, pledges: Pledges) -> None:
        if pledges:
            self._promised[key] = pledges
        else:
            self._promised.pop(key, None)

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        dropped = 0
        for key, version in keys:
            record = self._records.get(key)
            if record is not None and record.version == version:
                del self._records[key]
                dropped += 1
        return dropped

    def sweep(self, now: UnixTime, limit: int = 1000) -> int:
        ended = [
            (record.expiry, key)
            for key, record in self._in_range(b"", None)
            if not alive(record, now, ANY_VERSION)
        ]
        for _, key in sorted(ended)[:limit]:
            del self._records[key]
        for key, pledges in list(self._promised.items()):
            self._pledge(key, live(pledges, now))
        return min(len(ended), limit)

    def scan(
        self, now: UnixTime, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, StoredRecord]]:
        latest = latest_readable(now)
        for key, record in sorted(self._in_range(start, stop)):
            if alive(record, now, latest):
                yield key, record

    def stats(self) -> Stats:
        records = list(self._records.values())
        tombstones = sum(record.deleted for record in records)
        values = sum(len(record.value) for record in records)
        return Stats(len(records) - tombstones, tombstones, values, 0, "")

    def close(self) -> None:
        """No-op: there are no files."""

    def _in_range(self, start: bytes, stop: bytes | None) -> list[tuple[bytes, StoredRecord]]:
        """Walks a copy, because another thread may write meanwhile."""
        return [item for item in list(self._records.items()) if in_range(item[0], start, stop)]
