"""The typed surface of the queue loop; the contract is at the top of _nfqueue.pyx."""

from typing import Any

from kdht._routing import Core

COPY_RANGE: int
"""Bytes of each packet that the kernel copies."""
COUNTERS: tuple[str, ...]
LANE_BYTES: int
"""Bytes of one queue's counters: COUNTERS as native u64, then room for more."""

class QueueLoop:
    def __init__(
        self, core: Core, lane: int, fd: int, queue: int, mark: int, counters: Any
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...

def die_with(signal_number: int) -> None: ...
