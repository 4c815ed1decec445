"""A disk under the virtual clock: a sync takes time, and a crash loses unsynced data.

Contract: like GroupWriter's. A group is applied and confirmed at the end of its sync; jobs that wait meanwhile are the
next group. `crash` leaves the disk as a power cut or SIGKILL does: the group under sync is stored or not, and nobody
was told. What was changed without a sync, by soft writes or by `drop`, may be as before.
"""

from collections.abc import Callable, Sequence
from random import Random

from kdht.errors import StorageError
from kdht.storage import MemoryStore, StoredRecord
from kdht.storage.base import OnChange, Outcome, Wish, all_soft, check
from kdht.storage.writer import Done
from kdht.times import UnixTime

After = Callable[[float, Callable[[], None]], None]
"""Calls back after so many seconds."""

Job = tuple[Sequence[Wish], UnixTime, Done]


class CrashStore(MemoryStore):
    """A MemoryStore that remembers what it had before the changes since the last sync."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self._unsynced: list[tuple[bytes, StoredRecord | None]] = []

    def apply(
        self, writes: Sequence[Wish], now: UnixTime, on_change: OnChange | None = None
    ) -> list[Outcome]:
        if all_soft(writes):
            self._unsynced += [(write.key, self._records.get(write.key)) for write in writes]
        else:
            self._unsynced.clear()
            self.syncs += 1
        return super().apply(writes, now, on_change)

    def drop(self, keys: Sequence[tuple[bytes, int]]) -> int:
        for key, version in keys:
            record = self._records.get(key)
            if record is not None and record.version == version:
                self._unsynced.append((key, record))
        return super().drop(keys)

    def crash(self, rng: Random) -> None:
        """Some of the last changes are undone: the log was written up to there."""
        kept = rng.randint(0, len(self._unsynced))
        for key, record in reversed(self._unsynced[kept:]):
            if record is None:
                self._records.pop(key, None)
            else:
                self._records[key] = record
        self._unsynced.clear()


class DiskWriter:
    """GroupWriter's twin: one sync at a time, each of `seconds`, least and most."""

    def __init__(
        self,
        store: CrashStore,
        on_change: OnChange,
        after: After,
        rng: Random,
        seconds: tuple[float, float] = (0.0005, 0.004),
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._after = after
        self._rng = rng
        self._seconds = seconds
        self._waiting: list[Job] = []
        self._group: list[Job] = []

    def submit(self, writes: Sequence[Wish], now: UnixTime, done: Done) -> bool:
        check(writes)
        self._waiting.append((writes, now, done))
        if not self._group:
            self._begin()
        return True

    def crash(self) -> None:
        """The process is dead. Its group under sync is stored wholly or not at all."""
        if self._group and self._rng.random() < 0.5:
            self._apply(self._group, None)
        self._store.crash(self._rng)

    def _begin(self) -> None:
        self._group, self._waiting = self._waiting, []
        # Without a sync it takes no time.
        soft = all(all_soft(writes) for writes, _, _ in self._group)
        least, most = (0.0, 0.0) if soft else self._seconds
        self._after(least + (most - least) * self._rng.random(), self._synced)

    def _synced(self) -> None:
        group = self._group
        outcome = self._apply(group, self._on_change)
        self._group = []
        if self._waiting:
            self._begin()
        start = 0
        for writes, _, done in group:
            end = start + len(writes)
            done([*outcome[start:end]] if isinstance(outcome, list) else outcome)
            start = end

    def _apply(self, group: list[Job], on_change: OnChange | None) -> list[Outcome] | StorageError:
        try:
            return self._store.apply(
                [wish for wishes, _, _ in group for wish in wishes], group[-1][1], on_change
            )
        except StorageError as error:
            return error
