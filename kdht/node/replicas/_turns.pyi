"""The typed surface of _turns.pyx."""

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeAlias

from kdht.datapath.base import Outgoing
from kdht.errors import StorageError
from kdht.faults import Faults
from kdht.node._timers import Alarm, Timers
from kdht.storage import Granted, Result, Wish, Writer
from kdht.times import SteadyTime, UnixTime

Outcome: TypeAlias = Result | Granted | StorageError | None
"""What became of a write to the own store, or of a promise; None: too many waited."""

class Planned(NamedTuple):
    """A write to the own store, or a promise, and who is told of its outcome, in a later turn."""

    write: Wish
    told: Callable[[Turn, Outcome], None]

class Turn:
    now: UnixTime
    steady: SteadyTime
    outgoing: list[Outgoing]
    writes: list[Planned]
    def __enter__(self) -> Turn: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def after(self, seconds: float, ring: Callable[[Turn], None]) -> Alarm: ...
    def at(self, when: float, ring: Callable[[Turn], None], place: int = 0) -> Alarm: ...
    def keep_places(self, count: int) -> int: ...

class Turns:
    timers: Timers
    current: Turn
    def __init__(
        self,
        send: Callable[[list[Outgoing]], object],
        writer: Writer,
        on_alarm: Callable[[float], None],
        faults: Faults,
    ) -> None: ...
    def turn(self, now: UnixTime) -> Turn: ...
    def tick(self, now: UnixTime) -> float | None: ...
