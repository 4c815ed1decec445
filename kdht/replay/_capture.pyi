"""The typed surface of the capture splitter; the contract is at the top of _capture.pyx."""

from collections.abc import Sequence
from typing import NamedTuple

from kdht.wire import Buffer

MAX_RECORD: int
MAX_PACKETS: int
MAX_INTERFACES: int
SKIPPED: tuple[str, ...]

class Frame(NamedTuple):
    number: int
    """In the capture, from 1."""
    offset: int
    """Of its record in the file."""
    nanos: int
    """When it was captured, since the epoch."""
    link: int
    """The link type, of tcpdump's list."""
    captured: int
    """Bytes in the file."""
    original: int
    """Bytes that were on the wire."""
    is_ip: bool

class Batch:
    data: bytes
    first: int
    count: int
    def __init__(self, data: bytes, first: int) -> None: ...
    @classmethod
    def of(
        cls,
        packets: Sequence[Buffer],
        times: Sequence[int],
        first: int = 1,
        offsets: Sequence[int] | None = None,
    ) -> Batch: ...
    def __len__(self) -> int: ...
    def frame(self, index: int) -> Frame: ...
    def link_layer(self, index: int) -> bytes: ...
    def packet(self, index: int) -> bytes: ...
    def foreign(self) -> list[int]: ...
    def place(self, index: int, skip: int) -> None: ...
    def cut_short(self) -> int: ...
    def skipped(self) -> dict[str, int]: ...
    def same_second(self, begin: int) -> int: ...

class Splitter:
    def __init__(self) -> None: ...
    def open(self, start: bytes) -> int: ...
    def split(self, data: bytes) -> tuple[Batch, int, int]: ...
