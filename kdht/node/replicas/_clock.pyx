# cython: language_level=3
"""The hybrid logical clock that versions come from.

It follows the versions of others, but only so far: else one lie would put all later versions beyond what any
clock may say.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks and Consistent Snapshots in Globally
Distributed Databases", 2014. Both parts are in one number here, as section 6 of the paper allows:
microseconds of Unix time, counted on if the clock stands still or is behind.
"""

from libc.stdint cimport int64_t

from threading import Lock

from kdht.storage.versions import MICROSECONDS
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_CLOCK_ERROR

cdef int64_t ERROR = MAX_CLOCK_ERROR
cdef double SECOND = MICROSECONDS


cdef class HybridClock:
    """Rising versions, above all that were seen and are at most MAX_CLOCK_ERROR ahead of the time.

    Thread-safe.
    """

    def __cinit__(self):
        self.last, self.lock = 0, Lock()

    def next(self, double now, above=0):
        """A version above all earlier ones, and above `above`, which the clock does not follow."""
        cdef int64_t time = <int64_t>(now * SECOND)  # versions.micros
        with self.lock:
            # Counted on if the clock stands still or went back a little: no version is given twice.
            self.last = max(time, min(self.last, time + ERROR) + 1)
            # No ordinary record has a version that high: it is a lie, or the key is self-certified.
            return max(self.last, above + 1) if above and above < CERTIFIED else self.last

    def seen(self, version, double now):
        """Note a version of another node or of the own disk. That of a self-certified record is beyond
        every time."""
        if version <= <int64_t>(now * SECOND) + ERROR:
            with self.lock:
                self.last = max(self.last, <int64_t>version)


# Time-outs of calls are shorter, so a step of the wall clock ends none of them early by much.
MAX_LEAP = 1.0
cdef double LEAP = MAX_LEAP


cdef class SteadyClock:
    """Makes steady time of Unix time. It never runs backwards, and leaps at most one second at a time.

    So a step of the wall clock neither stalls nor fires a time-out. A time a little behind an earlier one
    changes nothing.
    """

    def __cinit__(self):
        self.offset, self.steady = None, 0.0

    cpdef double at(self, double now):
        """The steady time for `now`, Unix seconds."""
        cdef double leap
        # The first time is second 0.
        if self.offset is None:
            self.offset = now
        leap = now - <double>self.offset - self.steady
        if -LEAP <= leap <= LEAP:
            self.steady += max(leap, 0.0)
        else:
            self.steady += LEAP if leap > 0 else 0.0
            self.offset = now - self.steady
        return self.steady
