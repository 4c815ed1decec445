"""The typed surface of _reader.pyx."""

from collections.abc import Callable

from kdht.times import UnixTime
from kdht.storage._cache import RecordCache

class StoreReader:
    answered: int
    def __init__(
        self,
        get: Callable[[bytes], bytes | None],
        cache: RecordCache | None,
        is_caught_up: Callable[[bytes], bool],
    ) -> None: ...
    def of(
        self, keys: list[bytes], rooms: list[int], now: UnixTime
    ) -> list[tuple[int, int, int, bytes] | None]: ...
