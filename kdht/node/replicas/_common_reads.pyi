"""The typed surface of _common_reads.pyx."""

from collections.abc import Callable

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.node.replicas.context import CoordinatorContext
from kdht.node.replicas.quorum_reads import Done, QuorumReads
from kdht.node.replicas._turns import Turn
from kdht.storage._reader import StoreReader
from kdht.times import UnixTime
from kdht.wire import Address

class ReadAnswers:
    def __init__(
        self,
        core: Core,
        counts: dict[tuple[int, int], int],
        late: Callable[[int, UnixTime], None],
        end_of: Callable[[Datagram, UnixTime], Done],
    ) -> None: ...

class CommonReads:
    def __init__(
        self,
        context: CoordinatorContext,
        sources: dict[bool, Address],
        reader: StoreReader,
        reads: QuorumReads,
        need: Callable[[], int],
        is_caught_up: Callable[[bytes], bool],
    ) -> None: ...
    def __len__(self) -> int: ...
    def is_ready(self, answers: ReadAnswers) -> bool: ...
    def begin(self, turn: Turn, request: Datagram) -> bool: ...
    def release(self, turn: Turn, request_id: int) -> bool: ...
    def waits(self, request_id: int, address: Address) -> bool: ...
    def release_asked(self, turn: Turn, address: Address) -> None: ...
