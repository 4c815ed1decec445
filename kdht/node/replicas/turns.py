"""One turn at what the threads of a node share: replies come in, writes are confirmed, time passes.

Contract: a turn holds the lock and does no I/O; what it wants sent and written is carried
out when the lock is free again, so a writer that answers at once (InlineWriter) simply has the
next turn. Whatever is begun in a turn ends in another, by a reply, a result or an alarm.

Most alarms are cancelled long before their time. So who ticks is told when an alarm comes before the
tick that is expected, and of no other.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from kdht.datapath.base import Outgoing
from kdht.errors import StorageError
from kdht.faults import Faults
from kdht.node.replicas.clock import SteadyClock
from kdht.node.timers import Alarm, Timers
from kdht.storage import Granted, Result, Wish, Writer
from kdht.times import SteadyTime, UnixTime

Outcome = Result | Granted | StorageError | None
"""What became of a write to the own store, or of a promise; None: too many waited."""


class Planned(NamedTuple):
    """A write to the own store, or a promise, and who is told of its outcome, in a later turn."""

    write: Wish
    told: Callable[["Turn", Outcome], None]


class Turn:
    """What one turn knows and wants: a block, whose wishes are fulfilled as it ends."""

    __slots__ = ("_turns", "now", "outgoing", "steady", "writes")

    def __init__(self, turns: "Turns", now: UnixTime) -> None:
        self._turns = turns
        self.now = now
        """Unix seconds."""
        self.steady = SteadyTime(0.0)
        """Seconds that only run forwards, for alarms."""
        self.outgoing: list[Outgoing] = []
        self.writes: list[Planned] = []

    def __enter__(self) -> "Turn":
        self._turns.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._turns.leave(self, fulfil=kind is None)

    def after(self, seconds: float, ring: Callable[["Turn"], None]) -> Alarm:
        """Call `ring` with a turn of that time."""
        return self.at(self.steady + seconds, ring)

    def at(self, when: float, ring: Callable[["Turn"], None], place: int = 0) -> Alarm:
        """The same at a steady time. `place`: as in Timers."""
        return self._turns.timers.at(when, lambda _: ring(self._turns.current), place)

    def keep_places(self, count: int) -> int:
        """As Timers.keep_places."""
        return self._turns.timers.keep_places(count)


class Turns:
    """Hands out turns. `on_alarm` hears, on any thread, in how many seconds `tick` should be called, if that
    is sooner than was said last."""

    def __init__(
        self,
        send: Callable[[list[Outgoing]], object],
        writer: Writer,
        on_alarm: Callable[[float], None],
        faults: Faults,
    ) -> None:
        self._on_alarm = on_alarm
        self._guard = faults.guard("the end of a write")
        self.timers = Timers(faults)
        self.current: Turn
        """Whose turn it is."""
        self._send = send
        self._writer = writer
        self._lock = threading.Lock()
        self._clock = SteadyClock()
        # Infinity: nobody has been told of a tick yet.
        self._expected = math.inf

    def turn(self, now: UnixTime) -> Turn:
        """One turn at `now`, Unix seconds."""
        return Turn(self, now)

    def enter(self, turn: Turn) -> None:
        """It is this turn's turn, once the one before has ended."""
        # Everything below is under the lock, the time as well: turns are in the order of their steady times.
        self._lock.acquire()
        turn.steady = self._clock.at(turn.now)
        self.current = turn

    def leave(self, turn: Turn, *, fulfil: bool) -> None:
        """The next one's turn; then what this one wants is done."""
        due = self.timers.next()
        early = due is not None and due < self._expected
        if due is not None and early:
            self._expected = due
        self._lock.release()
        # After the lock is free: a writer that answers at once takes the next turn.
        if fulfil:
            self._fulfil(turn)
        if due is not None and early:
            self._on_alarm(max(due - turn.steady, 0.0))

    def tick(self, now: UnixTime) -> float | None:
        """Let the alarms that are due ring. In how many seconds it is to be called again; None: not before
        `on_alarm` says so."""
        turn = Turn(self, now)
        self.enter(turn)
        self._expected = math.inf  # also if an alarm raises: the next one that is set is heard of then
        try:
            self.timers.run(turn.steady)
            seconds = self._until_next(turn.steady)
            self._expected = math.inf if seconds is None else turn.steady + seconds
        finally:
            self._lock.release()
        self._fulfil(turn)
        return seconds

    def _until_next(self, steady: SteadyTime) -> float | None:
        due = self.timers.next()
        return None if due is None else max(due - steady, 0.0)

    def _fulfil(self, turn: Turn) -> None:
        if turn.outgoing:
            self._send(turn.outgoing)
        if turn.writes:
            planned = turn.writes
            told = partial(self._tell, planned, turn.now)
            # The writer's queue is bounded: a client past the bound is told BUSY.
            if not self._writer.submit([plan.write for plan in planned], turn.now, told):
                told(None)

    def _tell(
        self,
        planned: list[Planned],
        then: UnixTime,
        outcome: list[Result | Granted | StorageError] | StorageError | None,
    ) -> None:
        # One error for the whole job, or an outcome for each.
        outcomes: Sequence[Outcome] = outcome if isinstance(outcome, list) else [outcome] * len(planned)
        # With the time of the turn that planned it. A confirmation some milliseconds later must not look like
        # one from the past.
        with self.turn(then) as turn:
            for plan, each in zip(planned, outcomes, strict=True):
                with self._guard:
                    plan.told(turn, each)
