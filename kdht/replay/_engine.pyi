"""The typed surface of the batch engine; the contract is at the top of _engine.pyx."""

from collections.abc import Iterable
from typing import NamedTuple

from kdht._routing import Core
from kdht.wire._shared import Reason
from kdht.replay._capture import Batch
from kdht.wire import Address

class Judgement(NamedTuple):
    reason: Reason | None
    """None: it could not be run."""
    data: bytes
    """The packet afterwards, from its IP header on."""
    source: Address | None
    target: Address | None
    next_id: bytes | None
    max_reply: int | None
    """None: the implementation does not tell more than the reason and the packet."""
    action: str | None
    """Of the XDP program."""
    unable: str | None
    """Why it could not be run."""

class Results:
    batch: Batch
    def __init__(self, batch: Batch) -> None: ...
    def __len__(self) -> int: ...
    def get(self, index: int) -> Judgement: ...
    def put(
        self,
        index: int,
        reason: Reason,
        data: bytes | None = None,
        source: Address | None = None,
        target: Address | None = None,
        next_id: bytes | None = None,
        max_reply: int | None = None,
    ) -> None: ...
    def cannot(self, index: int, why: str) -> None: ...
    def tally(self) -> dict[Reason | None, int]: ...
    def having(self, reasons: Iterable[Reason]) -> list[int]: ...
    def differences(self, other: Results) -> list[int]: ...
    def gone_on(self) -> bytes: ...

def run_core(core: Core, results: Results, now: int | None = None, shift: int = 0) -> None: ...
def run_program(program: int, results: Results, begin: int, end: int) -> None: ...
