"""The typed surface of _repeat.pyx."""

from collections.abc import Sequence

from kdht._routing import Core
from kdht.wire._shared import Buffer

def repeat(core: Core, packets: Sequence[Buffer], rounds: int, now: int, lane: int = 0) -> int: ...
