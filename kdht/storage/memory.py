"""The in-memory twin of LevelStore, for tests and simulated clusters: nothing outlives it."""

from collections.abc import Iterator, Sequence

from kdht.storage.base import Result, Stats, Stored, Write, alive, check, settle


class MemoryStore:
    """A dictionary of records. Writes come from one thread at a time."""

    def __init__(self) -> None:
        self._records: dict[bytes, Stored] = {}

    def get(self, key: bytes, now: float) -> Stored | None:
        return alive(self._records.get(key), now)

    def get_many(self, keys: Sequence[bytes], now: float) -> list[Stored | None]:
        return [self.get(key, now) for key in keys]

    def apply(self, writes: Sequence[Write], now: float) -> list[Result]:
        check(writes)
        results = []
        for write in writes:
            record, result = settle(self._records.get(write.key), write, now)
            if record is not None:
                self._records[write.key] = record
            else:
                self._records.pop(write.key, None)
            results.append(result)
        return results

    def sweep(self, now: float, limit: int = 1000) -> int:
        ended = [(record.expiry, key) for key, record in self._records.items() if not alive(record, now)]
        for _, key in sorted(ended)[:limit]:
            del self._records[key]
        return min(len(ended), limit)

    def scan(
        self, now: float, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, Stored]]:
        for key, record in sorted(self._records.items()):
            if start <= key and (stop is None or key < stop) and alive(record, now):
                yield key, record

    def stats(self) -> Stats:
        values = sum(len(record.value) for record in self._records.values())
        return Stats(len(self._records), values, 0, "")

    def close(self) -> None:
        """Nothing to give back."""
