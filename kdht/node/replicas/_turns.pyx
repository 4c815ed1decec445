# cython: language_level=3
"""One turn at what the threads of a node share: replies come in, writes are confirmed, time passes.

Contract: a turn holds the lock and does no I/O; what it wants sent and written is carried
out when the lock is free again, so a writer that answers at once (InlineWriter) simply has the
next turn. Whatever is begun in a turn ends in another, by a reply, a result or an alarm.

Most alarms are cancelled long before their time. So who ticks is told when an alarm comes before the
tick that is expected, and of no other.

In Cython, for every batch of messages and every group of writes has a turn.
"""

from libc.math cimport INFINITY

from kdht.node._timers cimport Timers
from kdht.node.replicas._clock cimport SteadyClock

import threading
from collections import namedtuple
from functools import partial

from kdht.errors import StorageError
from kdht.storage import Granted, Result

Outcome = Result | Granted | StorageError | None
Planned = namedtuple("Planned", ("write", "told"))


cdef class Turn:
    """What one turn knows and wants: a block, whose wishes are fulfilled as it ends."""

    def __cinit__(self, Turns turns not None, double now):
        self.turns, self.now, self.steady = turns, now, 0.0
        self.outgoing, self.writes = [], []

    def __enter__(self):
        self.turns.enter(self)
        return self

    def __exit__(self, kind, error, trace):
        self.turns.leave(self, kind is None)

    def after(self, double seconds, ring):
        """Call `ring` with a turn of that time."""
        return self.at(self.steady + seconds, ring)

    cpdef list at(self, double when, ring, long place=0):
        """The same at a steady time. `place`: as in Timers."""
        return self.turns.timers.at(when, partial(_ring, self.turns, ring), place)

    cpdef long keep_places(self, long count):
        """As Timers.keep_places."""
        return self.turns.timers.keep_places(count)


def _ring(Turns turns, ring, _):
    ring(turns.current)


cdef class Turns:
    """Hands out turns. `on_alarm` hears, on any thread, in how many seconds `tick` should be called, if that
    is sooner than was said last."""

    def __cinit__(self, send, writer, on_alarm, faults):
        self.send, self.writer, self.on_alarm, self.faults = send, writer, on_alarm, faults
        self.timers, self.clock = Timers(faults), SteadyClock()
        self.lock = threading.Lock()
        # Infinity: nobody has been told of a tick yet.
        self.expected = INFINITY

    def turn(self, double now):
        """One turn at `now`, Unix seconds."""
        return Turn(self, now)

    cdef int enter(self, Turn turn) except -1:
        """Take the lock; block until the turn before has ended."""
        # Everything below is under the lock, the time as well: turns are in the order of their steady times.
        self.lock.acquire()
        turn.steady = self.clock.at(turn.now)
        self.current = turn
        return 0

    cdef int leave(self, Turn turn, bint fulfil) except -1:
        """Release the lock; then send and write what the turn planned, if `fulfil`."""
        due = self.timers.next()
        cdef bint early = due is not None and <double>due < self.expected
        if early:
            self.expected = due
        self.lock.release()
        # After the lock is free: a writer that answers at once takes the next turn.
        if fulfil:
            self.fulfil(turn)
        if early:
            self.on_alarm(max(<double>due - turn.steady, 0.0))
        return 0

    def tick(self, double now):
        """Let the alarms that are due ring. In how many seconds it is to be called again; None: not before
        `on_alarm` says so."""
        cdef Turn turn = Turn(self, now)
        self.enter(turn)
        self.expected = INFINITY  # also if an alarm raises: the next one that is set is heard of then
        try:
            self.timers.run(turn.steady)
            due = self.timers.next()
            seconds = None if due is None else max(<double>due - turn.steady, 0.0)
            self.expected = INFINITY if seconds is None else turn.steady + <double>seconds
        finally:
            self.lock.release()
        self.fulfil(turn)
        return seconds

    cdef int fulfil(self, Turn turn) except -1:
        if turn.outgoing:
            self.send(turn.outgoing)
        if turn.writes:
            told = partial(self.tell, turn.writes, turn.now)
            # The writer's queue is bounded: a client past the bound is told BUSY.
            if not self.writer.submit([plan.write for plan in turn.writes], turn.now, told):
                told(None)
        return 0

    def tell(self, list planned, double then, outcome):
        """Tell who planned the writes of a turn at `then`. One error for the job, or an outcome each."""
        cdef list outcomes = outcome if isinstance(outcome, list) else [outcome] * len(planned)
        # With the time of the turn that planned it. A confirmation some milliseconds later must not look like
        # one from the past.
        with Turn(self, then) as turn:
            for plan, each in zip(planned, outcomes, strict=True):
                try:
                    plan.told(turn, each)
                except Exception:
                    self.faults.note("the end of a write")
