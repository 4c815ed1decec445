"""Records with version, expiry and flags: in LevelDB, or in memory for tests.

Layer 3. No clock: `now` (UnixTime, seconds) comes from the caller. A record whose
expiry has passed is absent for every reader, also before `sweep` removes it. When `apply` returns,
its writes are on disk as a whole; a crash of the process or the machine does not undo them.
"""

from kdht.storage._group_writer import GroupWriter
from kdht.storage.base import (
    Outcome,
    Result,
    Stats,
    Store,
    Wish,
    Write,
    neighbourhood,
    newer,
    visible,
)
from kdht.storage.level import LevelStore
from kdht.storage.memory import MemoryStore
from kdht.storage.promises import Granted, Promise
from kdht.storage.record import StoredRecord
from kdht.storage.writer import InlineWriter, Writer, WriterStats

__all__ = [
    "Granted",
    "GroupWriter",
    "InlineWriter",
    "LevelStore",
    "MemoryStore",
    "Outcome",
    "Promise",
    "Result",
    "Stats",
    "Store",
    "StoredRecord",
    "Wish",
    "Write",
    "Writer",
    "WriterStats",
    "neighbourhood",
    "newer",
    "visible",
]
