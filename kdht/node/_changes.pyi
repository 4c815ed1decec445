"""The typed surface of _changes.pyx."""

from collections.abc import Callable, Mapping
from typing import Any

from kdht.storage import StoredRecord

class RecordChanges:
    def __init__(
        self,
        invalidate: Callable[[bytes], None] | None,
        repair_changed: Callable[[bytes], None],
        nearby: Mapping[bytes, Any],
        shared: int,
        sets_changed: Callable[[bytes, StoredRecord], bool],
        members_changed: Callable[[bytes], None] | None,
        watched: Mapping[bytes, Any],
        notify: Callable[[bytes, StoredRecord, bool], None],
    ) -> None: ...
    def changed(self, key: bytes, record: StoredRecord) -> None: ...
