"""The typed surface of _change.pyx."""

from collections.abc import Callable, Sequence

import plyvel

from kdht.storage import layout
from kdht.storage._known_keys import KnownKeys
from kdht.storage.base import Outcome, Wish
from kdht.storage.promises import Pledges
from kdht.storage.record import Replaced, StoredRecord
from kdht.storage.room import Room
from kdht.times import UnixTime

def check(wishes: Sequence[Wish]) -> None: ...

class StoreChange:
    pledged: dict[bytes, Pledges]
    """The new promises of each key whose promises change."""
    def __init__(
        self,
        get: Callable[..., bytes | None],
        known: KnownKeys,
        latest: int,
        promised: dict[bytes, Pledges] | None = None,
    ) -> None: ...
    def standing(self, key: bytes) -> StoredRecord | None: ...
    def put(self, key: bytes, record: StoredRecord | None) -> None: ...
    def drop_entry(self, entry: bytes) -> None: ...
    def pledge(self, key: bytes, pledges: Pledges) -> None: ...
    def apply(
        self, wishes: Sequence[Wish], now: UnixTime, room: Room
    ) -> tuple[list[Outcome], list[tuple[bytes, StoredRecord]]]: ...
    def replaced(self) -> list[Replaced]: ...
    def is_empty(self, replaced: list[Replaced]) -> bool: ...
    def set_aside(self, replaced: list[Replaced]) -> int: ...
    def write(
        self, db: plyvel.DB, replaced: list[Replaced], counts: layout.Counts, serial: int, *, sync: bool
    ) -> layout.Counts: ...
