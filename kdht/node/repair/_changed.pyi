"""The typed surface of _changed.pyx."""

from threading import Lock
from typing import Any

from kdht.node.repair.departure import Foreign
from kdht.node.repair.ranges import Range
from kdht.node.repair.sight import Sight

class Staleness:
    def __init__(self, lock: Lock, kept: dict[Range, Any], depths: set[int]) -> None: ...
    def changed(self, key: bytes, /) -> None: ...

class RecordChanged:
    def __init__(self, stale: Staleness, sight: Sight, foreign: Foreign) -> None: ...
    def changed(self, key: bytes, /) -> None: ...
