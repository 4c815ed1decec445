"""The typed surface of _fetch_requests.pyx."""

from collections import Counter
from collections.abc import Callable, Sequence

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.storage._reader import StoreReader
from kdht.times import UnixTime
from kdht.wire import Address

class FetchRequests:
    def __init__(
        self,
        core: Core,
        own: frozenset[Address],
        reader: StoreReader,
        is_caught_up: Callable[[bytes], bool],
        holds: Callable[[bytes], bool],
        counters: Counter[str],
    ) -> None: ...
    def take(
        self, batch: Sequence[Datagram], now: UnixTime, answers: list[Outgoing]
    ) -> list[Datagram]: ...
