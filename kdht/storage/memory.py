"""The in-memory twin of LevelStore, for tests and simulated clusters: nothing outlives it."""

from collections.abc import Iterator, Sequence

from kdht.storage.base import (
    OnChange,
    Result,
    Stats,
    Stored,
    Write,
    alive,
    check,
    in_range,
    settle,
    tell,
)


class MemoryStore:
    """A dictionary of records. Writes come from one thread at a time."""

    def __init__(self) -> None:
        self._records: dict[bytes, Stored] = {}
        self.on_change: OnChange | None = None

    def get(self, key: bytes, now: float) -> Stored | None:
        return alive(self._records.get(key), now)

    def get_many(self, keys: Sequence[bytes], now: float) -> list[Stored | None]:
        return [self.get(key, now) for key in keys]

    def apply(self, writes: Sequence[Write], now: float) -> list[Result]:
        check(writes)
        results = []
        changes = []
        for write in writes:
            previous = self._records.get(write.key)
            record, result = settle(previous, write, now)
            results.append(result)
            if record is not None and record != previous:
                self._records[write.key] = record
                changes.append((write.key, record))
        tell(self.on_change, changes)
        return results

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        dropped = 0
        for key, version in keys:
            record = self._records.get(key)
            if record is not None and record.version == version:
                del self._records[key]
                dropped += 1
        return dropped

    def sweep(self, now: float, limit: int = 1000) -> int:
        ended = [(record.expiry, key) for key, record in self._in_range(b"", None) if not alive(record, now)]
        for _, key in sorted(ended)[:limit]:
            del self._records[key]
        return min(len(ended), limit)

    def scan(
        self, now: float, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, Stored]]:
        for key, record in sorted(self._in_range(start, stop)):
            if alive(record, now):
                yield key, record

    def stats(self) -> Stats:
        records = list(self._records.values())
        tombstones = sum(record.deleted for record in records)
        values = sum(len(record.value) for record in records)
        return Stats(len(records) - tombstones, tombstones, values, 0, "")

    def close(self) -> None:
        """Nothing to give back."""

    def _in_range(self, start: bytes, stop: bytes | None) -> list[tuple[bytes, Stored]]:
        """Of a copy: another thread may be writing."""
        return [item for item in list(self._records.items()) if in_range(item[0], start, stop)]
