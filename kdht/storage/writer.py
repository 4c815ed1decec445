"""What writers to a store have in common. `GroupWriter` (_group_writer.pyx) has a thread, `InlineWriter` has none."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from kdht.errors import StorageError
from kdht.storage.base import OnChange, Outcome, Store, Wish
from kdht.times import UnixTime

# A sync takes about as long for 512 small writes as for one. Larger groups only delay the answers of the first
# writes.
MAX_GROUP = 512
# Sixteen groups: at some milliseconds a group nobody in the queue waits longer than its client does.
MAX_WAITING = 8192

Done = Callable[[list[Outcome | StorageError] | StorageError], None]
"""Called with the outcome of one job: of each write, or one error for all. It must not raise and must not wait for the
writer."""


class WriterStats(NamedTuple):
    """`waiting`: writes in the queue now. The others count since the start: groups and writes confirmed, writes
    refused, writes failed."""

    waiting: int
    groups: int
    written: int
    refused: int
    failed: int


class Writer(Protocol):
    def submit(self, writes: Sequence[Wish], now: UnixTime, done: Done) -> bool:
        """Take a job and call `done` once, now or later. False: the queue is full, `done` is not called.

        Raises ValueError for a write that does not fit the layout.
        """


class InlineWriter:
    """The twin without a thread: `submit` does the job before it returns. For tests and simulations."""

    def __init__(self, store: Store, on_change: OnChange) -> None:
        self._store = store
        self._on_change = on_change

    def submit(self, writes: Sequence[Wish], now: UnixTime, done: Done) -> bool:
        try:
            done([*self._store.apply(writes, now, self._on_change)])
        except StorageError as error:
            done(error)
        return True
