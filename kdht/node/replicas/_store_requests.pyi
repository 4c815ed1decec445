"""The typed surface of _store_requests.pyx."""

from collections import Counter
from collections.abc import Callable, Sequence

from kdht.times import UnixTime
from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.node.replicas._clock import HybridClock
from kdht.storage.writer import Done
from kdht.storage import Write
from kdht.wire import Address

class StoreRequests:
    def __init__(
        self,
        core: Core,
        own: frozenset[Address],
        submit: Callable[[Sequence[Write], UnixTime, Done], bool],
        send: Callable[[list[Outgoing]], object],
        clock: HybridClock,
        counters: Counter[str],
        deletion: Callable[..., bool],
        holds: Callable[[bytes], bool],
    ) -> None: ...
    def take(self, batch: Sequence[Datagram], now: UnixTime) -> list[Datagram]: ...
