"""The typed surface of _common_writes.pyx."""

from collections.abc import Callable

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.node.replicas.admission import Admission
from kdht.node.replicas.context import CoordinatorContext, Quorum
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.writes import Done, Writes
from kdht.storage import StoredRecord
from kdht.times import UnixTime
from kdht.wire import Address

class PutAnswers:
    def __init__(
        self,
        core: Core,
        counts: dict[tuple[int, int], int],
        late: Callable[[int, UnixTime], None],
        keep: Callable[[list[bytes], list[int], UnixTime], object] | None,
        end_of: Callable[[Datagram, UnixTime, int, int], Done],
        open_to_all: Callable[[], bool],
    ) -> None: ...

class CommonWrites:
    def __init__(
        self,
        context: CoordinatorContext,
        sources: dict[bool, Address],
        writes: Writes,
        admission: Admission,
        quorum: Callable[[], Quorum],
        ended: Callable[..., Done],
    ) -> None: ...
    def __len__(self) -> int: ...
    def is_ready(self, answers: PutAnswers) -> bool: ...
    def begin(self, turn: Turn, request: Datagram) -> bool: ...
    def begin_record(self, turn: Turn, key: bytes, record: StoredRecord, done: Done, soft: bool) -> bool: ...
    def release(self, turn: Turn, request_id: int) -> bool: ...
    def waits(self, request_id: int, address: Address) -> bool: ...
    def release_asked(self, turn: Turn, address: Address) -> None: ...
