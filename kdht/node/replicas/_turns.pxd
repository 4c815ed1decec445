"""Turns at what the threads of a node share (see _turns.pyx)."""

from kdht.node._timers cimport Timers
from kdht.node.replicas._clock cimport SteadyClock


cdef class Turn:
    cdef Turns turns
    cdef readonly double now
    """Unix seconds."""
    cdef readonly double steady
    """Seconds that only run forwards, for alarms."""
    cdef public list outgoing, writes

    cpdef list at(self, double when, ring, long place=*)
    cpdef long keep_places(self, long count)


cdef class Turns:
    cdef object send, writer, on_alarm, faults, lock
    cdef readonly Timers timers
    cdef readonly Turn current
    """Whose turn it is."""
    cdef SteadyClock clock
    cdef double expected

    cdef int enter(self, Turn turn) except -1
    cdef int leave(self, Turn turn, bint fulfil) except -1
    cdef int fulfil(self, Turn turn) except -1
