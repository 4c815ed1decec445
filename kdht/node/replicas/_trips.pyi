"""The typed surface of _trips.pyx."""

from collections.abc import Iterable

from kdht.histogram import Histogram
from kdht.node._roundtrip import RoundTrip
from kdht.wire import Address
from kdht.wire._shared import Op

MAX_ADDRESSES: int

class Trips:
    round_trips: dict[Op, Histogram]
    def __init__(self, ops: Iterable[Op]) -> None: ...
    def trip(self, op: Op, address: Address) -> RoundTrip: ...
    def took(self, op: Op, address: Address, rtt: float) -> None: ...
