"""Virtual alarms (see _timers.pyx)."""


cdef class Timers:
    cdef object guard
    cdef list heap
    cdef long serial
    cdef public double now
    """The time of the last `run`, or a later one that the owner has set."""

    cpdef list at(self, double when, callback, long place=*)
    cpdef long keep_places(self, long count)
    cpdef next(self)
