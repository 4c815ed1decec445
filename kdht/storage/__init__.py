"""Records with version, expiry and flags: in LevelDB, or in memory for tests.

Layer 3. No clock: `now` (unix seconds, a float) comes from the caller. A record whose
expiry has passed is absent to every reader, whether or not `sweep` has taken it away.
What `apply` returned is on disk, whole, even if the process or the machine dies next.
"""

from kdht.storage.base import (
    Result,
    Stats,
    Store,
    Stored,
    Write,
    neighbourhood,
    newer,
    visible,
)
from kdht.storage.level import LevelStore
from kdht.storage.memory import MemoryStore
from kdht.storage.writer import GroupWriter, InlineWriter, Writer, WriterStats

__all__ = [
    "GroupWriter",
    "InlineWriter",
    "LevelStore",
    "MemoryStore",
    "Result",
    "Stats",
    "Store",
    "Stored",
    "Write",
    "Writer",
    "WriterStats",
    "neighbourhood",
    "newer",
    "visible",
]
